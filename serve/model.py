"""The model deployment: owns an engine, answers clips that it decodes together, knows nothing of HTTP."""

from collections.abc import Callable

from caspi.inference.engine import BatchTranscriber, Engine, as_engine, drain, open_engine
from caspi.recipe.sections import Inference
from serve.batching import SILENCE, Answer, Batcher, Clip
from serve.options import Options


class TranscriptionModel:
    """One replica."""

    def __init__(self, load: Callable[[], Engine | BatchTranscriber], options: Options) -> None:
        engine = as_engine(load(), max_batch_s=options.max_batch_s)
        # A second of silence: what is slow only once is slow now, and a model that cannot run fails to deploy.
        drain(engine, [SILENCE])
        self._batcher = Batcher(engine, wait_s=options.batch_wait_s)
        self._stuck_after_s = 2 * options.request_timeout_s

    async def transcribe(self, clip: Clip) -> Answer:
        """The clip's transcription, decoded together with its neighbours in time, and what it took."""
        return await self._batcher.submit(clip)

    async def answer_probe(self) -> None:
        """Returns while the replica's event loop turns."""

    def check_health(self) -> None:
        """Have Serve replace this replica when a step hangs, as on a wedged GPU, or nothing works any more."""
        if self._batcher.busy_s > self._stuck_after_s:
            raise RuntimeError(f"a step of the engine has been running for {self._batcher.busy_s:.0f} s")
        if self._batcher.broken is not None:
            raise RuntimeError("the engine fails on silence too") from self._batcher.broken


def load_engine(options: Options) -> Engine:
    """The model, on this replica's device."""
    limits = Inference(max_batch_s=options.max_batch_s, max_tokens_per_s=options.max_tokens_per_s)
    return open_engine(options.model, limits=limits)
