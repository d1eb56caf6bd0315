"""Waiting clips and an engine: who starts when, who is dropped, whose fault a failure is.

Not `@serve.batch`. With `batch_size_fn`, Ray 2.60 (1) closes a batch after its wait even while the model is busy, so a
backlog becomes a queue of small batches instead of one full one; (2) moves a clip that does not fit behind everything
that came later, for ever if short clips keep coming; (3) refuses a clip longer than the batch; (4) answers a batch when
its longest clip is done. Here a clip starts as soon as there is room for it beside those that are being decoded, and
leaves when it is done. The one that waited longest starts first: while it does not fit, nobody overtakes it.
"""

import asyncio
import logging
import queue
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from caspi import audio
from caspi.errors import CaspiError
from caspi.inference.engine import REFILL_BELOW, Clip, Engine, drain
from caspi.inference.transcription import Transcription

__all__ = ["Answer", "Batcher", "Clip"]

logger = logging.getLogger(__name__)

SILENCE = Clip.of(np.zeros(audio.SAMPLE_RATE, np.float32))
"""A second of nothing, on which no engine has a reason to fail."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A transcription, and what it took to get it."""

    transcription: Transcription
    queue_s: float
    """From handing the clip over to its start."""

    compute_s: float
    """From its start to its end."""

    num_clips: int
    """Clips that were decoded together when it started, itself included."""

    fill: float
    """The share of the engine's room that those clips took, padding included; more than 1 for one above the room."""


@dataclass(slots=True, eq=False)
class _Request:
    clip: Clip
    answer: asyncio.Future[Answer]
    since: float = field(default_factory=time.monotonic)
    started: float = 0.0
    num_clips: int = 0
    fill: float = 0.0
    alone: bool = False  # it was inside when a step failed: nobody shall share its next try


def engine_thread() -> ThreadPoolExecutor:
    """Where an engine is opened, warmed and driven: always the same thread.

    OpenMP keeps a set of workers for each thread that has ever computed. As soon as all sets together are more than the
    cores, none of them waits awake any more, and decoding on a CPU takes up to twice as long.
    """
    return ThreadPoolExecutor(1, thread_name_prefix="engine")


class Batcher:
    """Drives an engine in a thread of its own for callers on one event loop.

    In a thread, because a blocked event loop also stops answering health checks.
    """

    def __init__(self, engine: Engine, *, wait_s: float, thread: ThreadPoolExecutor | None = None) -> None:
        """
        Args:
            wait_s: how long a clip waits for company, so that clips that come together start together.
            thread: of one worker, see `engine_thread`.
        """
        self._engine = engine
        self._wait_s = wait_s
        self._thread = thread or engine_thread()
        # Of the event loop.
        self._open: dict[_Request, None] = {}  # without an answer, in the order in which they came
        self._runner: asyncio.Task[None] | None = None
        # On the way to the thread.
        self._arrived: queue.SimpleQueue[_Request] = queue.SimpleQueue()
        self._news = threading.Event()  # somebody came, or gave up
        # Of the thread, while it works.
        self._waiting: list[_Request] = []
        self._inside: dict[int, _Request] = {}  # by the engine's number
        self._busy_since: float | None = None
        self._broken: Exception | None = None

    @property
    def busy_s(self) -> float:
        """How long the engine has been at its current step; 0 when it is idle."""
        since = self._busy_since
        return 0.0 if since is None else time.monotonic() - since

    @property
    def backlog_s(self) -> float:
        """Seconds of audio that wait or are being decoded."""
        return sum(request.clip.duration_s for request in self._open)

    @property
    def broken(self) -> Exception | None:
        """Why not even silence works any more, as after an error that a GPU does not recover from. None: it works."""
        return self._broken

    async def submit(self, clip: Clip) -> Answer:
        """The clip's transcription. A caller that is cancelled takes its clip along, out of the engine as well.

        Raises:
            Exception: whatever the engine raises for this clip when nothing else is inside.
        """
        loop = asyncio.get_running_loop()
        request = _Request(clip, loop.create_future())
        self._open[request] = None
        self._arrived.put(request)
        loop.call_later(self._wait_s, self._news.set)
        if self._runner is None or self._runner.done():
            self._runner = asyncio.create_task(self._run())
        try:
            return await request.answer
        finally:
            del self._open[request]
            if request.answer.cancelled():
                self._news.set()

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while self._open:
            if not self._inside:
                await self._await_company()
            self._news.clear()
            try:
                outcomes = await loop.run_in_executor(self._thread, self._work)
            except Exception as failure:  # the engine cannot even forget its clips: nobody shall wait for ever
                logger.exception("the engine does not work any more")
                self._broken = failure
                outcomes = [(request, failure) for request in self._open]
            for request, outcome in outcomes:
                if request.answer.done():
                    continue
                if isinstance(outcome, Exception):
                    request.answer.set_exception(outcome)
                else:
                    request.answer.set_result(outcome)
            await asyncio.sleep(0)  # who has an answer takes it before we look who is left

    async def _await_company(self) -> None:
        """Sleep until the oldest request is `wait_s` old. Behind a busy engine it already is."""
        oldest = next(iter(self._open))
        await asyncio.sleep(max(0.0, oldest.since + self._wait_s - time.monotonic()))

    # --- in the thread ------------------------------------------------------------------------------------------------

    def _work(self) -> list[tuple[_Request, Answer | Exception]]:
        """Start what fits and decode until somebody is done, or until there is news."""
        try:
            self._busy_since = time.monotonic()
            self._drop_cancelled()
            outcomes = self._start(self._choose())
            while self._inside and not outcomes:
                self._busy_since = time.monotonic()
                outcomes = self._step()
                if self._news.is_set():
                    break
            return outcomes
        finally:
            self._busy_since = None

    def _drop_cancelled(self) -> None:
        while not self._arrived.empty():
            self._waiting.append(self._arrived.get())
        self._waiting = [request for request in self._waiting if not request.answer.done()]
        gone = [number for number, request in self._inside.items() if request.answer.done()]
        if gone:
            self._engine.drop(gone)
            for number in gone:
                del self._inside[number]

    def _choose(self) -> list[_Request]:
        """Out of the queue: the one that waited longest and those behind it that still fit, or nobody."""
        if any(request.alone for request in self._inside.values()):
            return []
        chosen: list[_Request] = []
        for request in self._waiting:
            if request.alone:
                if not chosen and not self._inside:
                    chosen = [request]
                break
            if self._engine.fits([each.clip for each in (*chosen, request)]):
                chosen.append(request)
            elif not chosen:
                break
        if self._inside and len(chosen) < len(self._waiting) and self._engine.fill > REFILL_BELOW:
            return []
        self._waiting = [request for request in self._waiting if request not in chosen]
        return sorted(chosen, key=lambda request: request.clip.duration_s)

    def _start(self, chosen: Sequence[_Request]) -> list[tuple[_Request, Answer | Exception]]:
        """Hand clips to the engine. If it refuses them together, each gets its own chance."""
        if not chosen:
            return []
        now = time.monotonic()
        try:
            numbers = self._engine.start([request.clip for request in chosen])
        except Exception as error:
            if len(chosen) == 1:
                return [self._fail(chosen[0], error)]
            logger.warning("clips failed to start, trying one by one clips=%d", len(chosen), exc_info=error)
            return [outcome for request in chosen for outcome in self._start([request])]
        self._inside |= zip(numbers, chosen, strict=True)
        for request in chosen:
            request.started, request.num_clips, request.fill = now, len(self._inside), self._engine.fill
        return []

    def _step(self) -> list[tuple[_Request, Answer | Exception]]:
        try:
            finished = self._engine.step()
        except Exception as error:
            inside = list(self._inside.values())
            self._engine.drop(self._inside)
            self._inside = {}
            if len(inside) == 1:
                return [self._fail(inside[0], error)]
            # One clip's fault must not become its neighbours': each gets its own chance.
            logger.warning("a step failed, trying clips one by one clips=%d", len(inside), exc_info=error)
            for request in inside:
                request.alone = True
            self._waiting = [*inside, *self._waiting]
            self._news.set()
            return []
        now = time.monotonic()
        outcomes: list[tuple[_Request, Answer | Exception]] = []
        for number, transcription in finished:
            request = self._inside.pop(number)
            queue_s, compute_s = request.started - request.since, now - request.started
            outcomes.append((request, Answer(transcription, queue_s, compute_s, request.num_clips, request.fill)))
        return outcomes

    def _fail(self, request: _Request, error: Exception) -> tuple[_Request, Exception]:
        """One clip's failure, once it is clear whether it is the clip's or the engine's."""
        if not isinstance(error, CaspiError) and not self._inside:
            try:
                drain(self._engine, [SILENCE])
            except Exception as failure:
                logger.error("the engine fails on silence too", exc_info=failure)
                self._broken = failure
        return request, error
