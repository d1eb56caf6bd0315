"""Waiting clips become forward passes, measured in seconds of audio.

Not `@serve.batch`. With `batch_size_fn`, Ray 2.60 (1) closes a batch after its wait even while the model is busy, so a
backlog becomes a queue of small batches instead of one full one; (2) moves a clip that does not fit behind everything
that came later, for ever if short clips keep coming; (3) refuses a clip longer than the batch. Here a batch is closed
when the model is free to take it, and the clip that waited longest is always in it.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from caspi.inference.transcription import Transcription

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Clip:
    """One recording on its way to the model."""

    samples: np.ndarray  # (num_samples,) float32
    duration_s: float
    language: str | None = None
    prompt: str = ""


@dataclass(slots=True, eq=False)
class _Waiting:
    clip: Clip
    answer: asyncio.Future[Transcription]
    since: float = field(default_factory=time.monotonic)


class Batcher:
    """Runs `transcribe` in a thread, one batch at a time, on whatever waits when it becomes free.

    In a thread, because a blocked event loop also stops answering health checks.
    """

    def __init__(
        self, transcribe: Callable[[Sequence[Clip]], Sequence[Transcription]], *, max_batch_s: float, wait_s: float
    ) -> None:
        self._transcribe = transcribe
        self._max_batch_s = max_batch_s
        self._wait_s = wait_s
        self._waiting: list[_Waiting] = []
        self._runner: asyncio.Task[None] | None = None
        self._busy_since: float | None = None

    @property
    def busy_s(self) -> float:
        """How long the current forward pass has taken; 0 when there is none."""
        return 0.0 if self._busy_since is None else time.monotonic() - self._busy_since

    async def submit(self, clip: Clip) -> Transcription:
        """The clip's transcription. A caller that is cancelled or gives up takes its clip out of the queue."""
        waiting = _Waiting(clip, asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        if self._runner is None or self._runner.done():
            self._runner = asyncio.create_task(self._run())
        return await waiting.answer

    async def _run(self) -> None:
        while self._waiting:
            await self._await_company()
            batch = self._take()
            if batch:
                await self._answer(batch)

    async def _await_company(self) -> None:
        """Sleep until the oldest clip has waited `wait_s`. Behind a busy model it already has."""
        patience = self._wait_s - (time.monotonic() - self._waiting[0].since)
        if patience > 0:
            await asyncio.sleep(patience)

    def _take(self) -> list[_Waiting]:
        """Out of the queue: the oldest clip, and every later one that still fits, shortest first.

        The cost of a batch is its padded audio: its longest clip times the number of clips.
        """
        batch: list[_Waiting] = []
        left: list[_Waiting] = []
        longest_s = 0.0
        for waiting in self._waiting:
            if waiting.answer.done():  # cancelled: nobody waits for it any more
                continue
            padded_s = max(longest_s, waiting.clip.duration_s)
            if not batch or padded_s * (len(batch) + 1) <= self._max_batch_s:
                batch.append(waiting)
                longest_s = padded_s
            else:
                left.append(waiting)
        self._waiting = left
        return sorted(batch, key=lambda waiting: waiting.clip.duration_s)

    async def _answer(self, batch: list[_Waiting]) -> None:
        try:
            answers = await self._forward([waiting.clip for waiting in batch])
        except Exception as error:
            if len(batch) > 1:
                # One clip's fault must not become its neighbours': each gets its own chance.
                logger.warning("batch failed, retrying clips one by one clips=%d", len(batch), exc_info=error)
                for waiting in batch:
                    await self._answer([waiting])
                return
            if not batch[0].answer.done():
                batch[0].answer.set_exception(error)
            return
        for waiting, answer in zip(batch, answers, strict=True):
            if not waiting.answer.done():
                waiting.answer.set_result(answer)

    async def _forward(self, clips: Sequence[Clip]) -> Sequence[Transcription]:
        self._busy_since = time.monotonic()
        try:
            answers = await asyncio.to_thread(self._transcribe, clips)
        finally:
            self._busy_since = None
        if len(answers) != len(clips):
            raise RuntimeError(f"the transcriber answered {len(answers)} of {len(clips)} clips")
        return answers
