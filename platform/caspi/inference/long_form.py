"""Recordings of any length: speech found, cut at pauses, joined again. Plain Python, no event loop."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Cutting:
    """Where a recording is cut."""

    max_piece_s: float = 30.0
    """No piece is longer. In unbroken speech the cut is made at its quietest place."""

    threshold: float = 0.3
    """Speech begins where the detector is as sure of it as this, from 0 to 1."""

    pause_s: float = 0.6
    """A pause as long as this ends a piece."""

    padding_s: float = 0.2
    """What a piece holds of the quiet before its speech."""


@dataclass(frozen=True, slots=True)
class Segment:
    """A span of a recording and what was said in it."""

    start_s: float
    end_s: float
    text: str
    language: str | None = None
    """English name. None: the model heard no speech."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What a transcript is measured by."""

    audio_s: float
    """Seconds of the recording."""

    speech_s: float
    """Of them, the seconds that went to the model."""


@dataclass(frozen=True, slots=True)
class Transcript:
    """All of a recording."""

    text: str
    language: str | None
    """English name, of most of the speech. None: nobody speaks."""

    duration_s: float
    covered_s: float
    """Seconds that the model transcribed or that hold no speech: all of them, always."""

    segments: tuple[Segment, ...]
    usage: Usage
