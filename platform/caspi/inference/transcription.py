"""What a model heard."""

from dataclasses import dataclass
from typing import Literal

Finish = Literal["stop", "length", "repetition"]


@dataclass(frozen=True, slots=True)
class TokenLogProb:
    """One token of a text, and how likely the model found it."""

    token: bytes
    """Its part of the text in UTF-8. A letter may be split between tokens, so it need not be text by itself."""

    log_prob: float
    """Natural logarithm of its probability, at most 0."""


@dataclass(frozen=True, slots=True)
class Transcription:
    """The answer for one clip."""

    text: str
    language: str | None
    """English name, as Qwen3-ASR writes it (Hebrew). None: the model heard no speech."""

    duration_s: float
    """Seconds of audio that the text covers."""

    latency_s: float | None = None
    """Wall seconds from handing the clip to the model to its answer. None: not measured."""

    finish: Finish = "stop"
    """Why the text ends. `stop`: the model said so. `length`: it would have gone on, but wrote as many tokens as its
    seconds allow. `repetition`: it went round in circles, and the circles are cut off."""

    log_probs: tuple[TokenLogProb, ...] | None = None
    """Of the text's tokens, without the head that names the language. None: nobody asked."""
