"""What the HTTP side needs of the model side. The ingress deployment is one; tests have their own."""

from typing import Protocol

from caspi.inference.transcription import Transcription
from serve.batching import Clip


class Backend(Protocol):
    """What the HTTP side needs of the model side."""

    async def transcribe(self, clip: Clip, *, deadline: float) -> Transcription:
        """The clip's transcription, or an ApiError, by `deadline` (`time.monotonic`)."""

    async def is_ready(self) -> bool:
        """Whether a model would answer now."""
