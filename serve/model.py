"""The model deployment: owns the weights, answers clips in batches, knows nothing of HTTP."""

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from caspi import audio
from caspi.inference.transcription import Transcription
from serve.batching import Batcher, Clip
from serve.options import Options


class Transcriber(Protocol):
    """The part of `caspi.Transcriber` that serving needs."""

    def transcribe_batch(
        self,
        clips: Sequence[np.ndarray],
        *,
        languages: Sequence[str | None] | None = None,
        prompts: Sequence[str] | None = None,
    ) -> Sequence[Transcription]: ...


class TranscriptionModel:
    """One replica."""

    def __init__(self, load: Callable[[], Transcriber], options: Options) -> None:
        self._transcriber = load()
        self._batcher = Batcher(self._forward, max_batch_s=options.max_batch_s, wait_s=options.batch_wait_s)
        self._stuck_after_s = 2 * options.request_timeout_s
        # A second of silence: what is slow only once is slow now, and a model that cannot run fails to deploy.
        self._forward([Clip(np.zeros(audio.SAMPLE_RATE, np.float32), duration_s=1.0)])

    async def transcribe(self, clip: Clip) -> Transcription:
        """The clip's transcription, from a batch that it shares with its neighbours in time."""
        return await self._batcher.submit(clip)

    async def answer_probe(self) -> None:
        """Returns while the replica's event loop turns."""

    def check_health(self) -> None:
        """Have Serve replace this replica when a forward pass hangs, as a wedged GPU does."""
        if self._batcher.busy_s > self._stuck_after_s:
            raise RuntimeError(f"a forward pass has been running for {self._batcher.busy_s:.0f} s")

    def _forward(self, clips: Sequence[Clip]) -> Sequence[Transcription]:
        return self._transcriber.transcribe_batch(
            [clip.samples for clip in clips],
            languages=[clip.language for clip in clips],
            prompts=[clip.prompt for clip in clips],
        )


def load_transcriber(options: Options) -> Transcriber:
    """The model, on this replica's device."""
    from caspi.inference.transcriber import Transcriber as Loader  # pulls in torch, which the ingress does without
    from caspi.recipe.sections import Inference

    limits = Inference(max_batch_s=options.max_batch_s, max_tokens_per_s=options.max_tokens_per_s)
    return Loader.load(options.model, limits=limits)
