"""What a model heard."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Transcription:
    """The answer for one clip."""

    text: str
    language: str | None
    """English name, as Qwen3-ASR writes it (Hebrew). None: the model heard no speech."""

    duration_s: float
    """Seconds of audio that the text covers."""
