"""What a model writes that nobody said: words for silence and noise, loops, and nothing where somebody spoke."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from caspi.audio import SAMPLE_RATE, nonspeech

# Whisper-like models invent most on clips of a few seconds, and loop on long ones.
_LENGTHS_S = (1.0, 3.0, 8.0, 20.0)

# (kind, name, maker, level in dBFS): a muted line, a quiet room; a street, a fan, a bad cable.
_SOUNDS: tuple[tuple[str, str, Callable[[int, np.random.Generator], np.ndarray], float], ...] = (
    ("silence", "digital", nonspeech.silence, 0.0),
    ("silence", "room", nonspeech.pink, -65.0),
    ("noise", "pink", nonspeech.pink, -30.0),
    ("noise", "white", nonspeech.white, -30.0),
    ("noise", "hum", nonspeech.hum, -30.0),
)
NUM_CLIPS = len(_SOUNDS) * len(_LENGTHS_S)
_SEED = 20240229  # any: everybody must be asked about the same clips

# A loop is so many repetitions in a row of up to so many words, or of up to so many letters of one word.
_WORD_REPETITIONS, _MAX_LOOP_WORDS = 4, 12
_LETTER_REPETITIONS, _MAX_LOOP_LETTERS = 8, 4


@dataclass(frozen=True, slots=True)
class Clip:
    """A clip in which nobody speaks."""

    clip_id: str  # "noise/pink/3s"
    kind: str  # "silence" or "noise"
    samples: np.ndarray  # (num_samples,) float32


def make_clips() -> list[Clip]:
    """The clips that every model is asked about beside its test set: always the same ones."""
    random = np.random.default_rng(_SEED)
    return [
        Clip(f"{kind}/{name}/{length_s:.0f}s", kind, nonspeech.at_level(make(num_samples, random), level_dbfs))
        for kind, name, make, level_dbfs in _SOUNDS
        for length_s in _LENGTHS_S
        for num_samples in [round(length_s * SAMPLE_RATE)]
    ]


def is_repetition(reference: str, hypothesis: str) -> bool:
    """Is the hypothesis caught in a loop? Not where the reference repeats at least half as often: that was spoken.

    Both as they are scored: words between single spaces.
    """
    said, heard = reference.split(), hypothesis.split()
    most_repetitive = max(said, key=_letter_repetitions, default="")
    return _loops(heard, said, _WORD_REPETITIONS, _MAX_LOOP_WORDS) or any(
        _loops(word, most_repetitive, _LETTER_REPETITIONS, _MAX_LOOP_LETTERS) for word in heard
    )


def summarize(scored: Sequence[Mapping[str, Any]], clips: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What metrics.json says under `hallucination`.

    Args:
        scored: rows of the test set, with `reference_scored`, `hypothesis_scored`, `duration_s` and `is_repetition`.
        clips: answers to `make_clips`, with `utterance_id`, `source` (the kind), `hypothesis_scored`, `duration_s`.
            Those with an `error` could not be used, and are only counted.
    """
    num_asked, clips = len(clips), [clip for clip in clips if not clip["error"]]
    unspoken = [row for row in scored if not row["reference_scored"]]
    kinds = {"empty_reference": unspoken}
    for clip in clips:
        kinds.setdefault(clip["source"], []).append(clip)
    return {
        **_words_on_silence([*unspoken, *clips]),
        "by_kind": {kind: _words_on_silence(rows) for kind, rows in kinds.items() if rows},
        "num_failed": num_asked - len(clips),
        "num_repetitions": sum(row["is_repetition"] for row in scored),
        "num_empty": sum(bool(row["reference_scored"]) and not row["hypothesis_scored"] for row in scored),
        "clips": [{"clip": clip["utterance_id"], "hypothesis": clip["hypothesis"]} for clip in clips],
    }


def _words_on_silence(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Of clips in which nobody speaks: all of them, their minutes, and what was heard nevertheless."""
    num_words = sum(len(row["hypothesis_scored"].split()) for row in rows)
    silent_s = sum(row["duration_s"] for row in rows)
    return {
        "num_silent": len(rows),
        "silent_s": silent_s,
        "num_hallucinated": sum(bool(row["hypothesis_scored"]) for row in rows),
        "words_on_silence": num_words,
        "words_per_minute": 60 * num_words / silent_s if silent_s else 0.0,
    }


def _loops(heard: Sequence[str], said: Sequence[str], at_least: int, longest_unit: int) -> bool:
    repetitions = _num_repetitions(heard, longest_unit)
    return repetitions >= at_least and repetitions > 2 * _num_repetitions(said, longest_unit)


def _letter_repetitions(word: str) -> int:
    return _num_repetitions(word, _MAX_LOOP_LETTERS)


def _num_repetitions(pieces: Sequence[str], longest_unit: int) -> int:
    """How often the most repeated run of pieces comes in a row: 3 for `a b a b a b`, 1 for what is never repeated."""
    most = min(1, len(pieces))
    for unit in range(1, min(longest_unit, len(pieces) // 2) + 1):
        run = 0
        for place in range(unit, len(pieces)):
            run = run + 1 if pieces[place] == pieces[place - unit] else 0
            most = max(most, run // unit + 1)
    return most
