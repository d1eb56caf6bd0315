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

    latency_s: float | None = None
    """Wall seconds from handing the clip to the model to its answer; clips of a batch share it. None: not measured."""
