"""A model side for tests of the HTTP side."""

from caspi.inference.engine import Clip
from caspi.inference.transcription import Transcription
from serve.versions import ServedModel, State


class Backend:
    """Hears the same in every clip, at once."""

    async def transcribe(self, clip: Clip, *, deadline: float) -> Transcription:
        return Transcription("שלום", "Hebrew", clip.duration_s)

    async def describe(self) -> list[State]:
        return [State(ServedModel("double", "1", "", "double"), since=0)]
