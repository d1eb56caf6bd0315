"""What the HTTP side needs of the model side. The ingress deployment is one; tests have their own."""

from collections.abc import Sequence
from typing import Protocol

from caspi.inference.transcription import Transcription
from serve.batching import Clip
from serve.versions import State


class Backend(Protocol):
    """What the HTTP side needs of the model side."""

    async def transcribe(self, clip: Clip, *, deadline: float) -> Transcription:
        """The clip's transcription, or an ApiError, by `deadline` (`time.monotonic`)."""

    async def describe(self) -> Sequence[State]:
        """The models that answer: the stable one, then its canary. Empty while none does."""
