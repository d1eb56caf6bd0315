"""Parts of a test set, as labels `GROUP=NAME` of each utterance, and the same score for each part.

They are told from the reference and the audio alone, so that every model is judged on the same parts.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from caspi.evaluation.intervals import ends
from caspi.evaluation.metrics import ErrorCounts, pool
from caspi.text import script_share
from caspi.text.registry import find_language

# Of a test set with more speakers than a person reads through, those with the most utterances are shown.
_MAX_SPEAKERS = 20

# Upper bounds in seconds. Short clips miss context, long ones are where decoding loops and drops sentences.
_DURATION_BOUNDS_S = (2, 5, 10, 20, 30)

# Whisper hears 30 s at once and everybody else cuts near it: beyond, a system joins pieces, or shows that it can do
# without.
_LONG_FORM_S = 30

# Of characters a second: Hebrew, which writes few vowels, is read at about 12, and hurried speech is beyond 16.
_SPEED_BOUNDS = (8, 12, 16, 20)

# In dB: a street, a room with a fan, a quiet room, a studio.
_SNR_BOUNDS = (5, 15, 25, 35)

_LATIN = re.compile("[A-Za-z\u00c0-\u024f]")

GROUPS = ("source", "duration", "form", "characters_per_second", "snr", "numbers", "script", "speaker")
"""The groups of slices, in the order in which people read them. Each utterance is in at most one slice of a group."""


def label(row: Mapping[str, Any]) -> list[str]:
    """The slices of an utterance, `GROUP=NAME`. It is in no slice of a group about which nothing is known of it.

    `row` has `reference`, `language`, `source`, `speaker_id`, `duration_s`, `characters_per_second`, perhaps `snr_db`.
    """
    snr_db = row.get("snr_db")
    names = {
        "source": row["source"],
        "duration": duration_band(row["duration_s"]),
        "form": "long" if row["duration_s"] > _LONG_FORM_S else "short",
        "characters_per_second": _band(row["characters_per_second"], _SPEED_BOUNDS, " a second"),
        "snr": None if snr_db is None else _band(snr_db, _SNR_BOUNDS, " dB", lowest="under "),
        "numbers": "digits" if any(character.isdigit() for character in row["reference"]) else "none",
        "script": _script(row["reference"], row["language"]),
        "speaker": row["speaker_id"],
    }
    return [f"{group}={names[group]}" for group in GROUPS if names[group] is not None]


def duration_band(duration_s: float) -> str:
    """`2-5 s` for 3.2; the upper bound belongs to the band."""
    return _band(duration_s, _DURATION_BOUNDS_S, " s")


def members(labels: Sequence[Sequence[str] | None]) -> dict[str, list[int]]:
    """The slices that are told of, `GROUP=NAME`, with the utterances (positions) of each.

    Groups and bands in order, other names by the alphabet; of the speakers only those with the most utterances.
    """
    found: dict[str, list[int]] = {}
    for position, names in enumerate(labels):
        for each in names or ():
            found.setdefault(each, []).append(position)
    sizes = Counter({each: len(positions) for each, positions in found.items() if each.startswith("speaker=")})
    rare = {each for each, _ in sizes.most_common()[_MAX_SPEAKERS:]}
    return {each: found[each] for each in sorted(found.keys() - rare, key=_order)}


def score_slices(
    counts: ErrorCounts, labels: Sequence[Sequence[str]], recordings: Sequence[str]
) -> dict[str, dict[str, dict[str, Any]]]:
    """`{GROUP: {NAME: numbers}}` of each slice that is told of."""
    return by_group({each: _numbers(counts, positions, recordings) for each, positions in members(labels).items()})


def by_group(parts: Mapping[str, dict[str, Any]]) -> dict[str, dict[str, dict[str, Any]]]:
    """`source=fleurs` -> ["source"]["fleurs"], as in metrics.json."""
    groups: dict[str, dict[str, dict[str, Any]]] = {}
    for label, part in parts.items():
        group, _, name = label.partition("=")
        groups.setdefault(group, {})[name] = part
    return groups


def _numbers(counts: ErrorCounts, positions: list[int], recordings: Sequence[str]) -> dict[str, Any]:
    score = pool(counts.select(np.array(positions)), clusters=[recordings[position] for position in positions])
    return {
        "wer": score.wer,
        "wer_interval": ends(score.wer_interval),
        "cer": score.cer,
        "cer_interval": ends(score.cer_interval),
        "reference_words": score.reference_words,
        "num_utterances": score.num_utterances,
    }


def _band(value: float, bounds: Sequence[int], unit: str, *, lowest: str = "0-") -> str:
    """`5-10 s` for 7, `over 30 s` for 31; the upper bound belongs to the band."""
    for low, high in zip((None, *bounds), bounds, strict=False):
        if value <= high:
            return f"{lowest}{high}{unit}" if low is None else f"{low}-{high}{unit}"
    return f"over {bounds[-1]}{unit}"


def _order(label: str) -> tuple[int, bool, float, str]:
    """Groups as people read them; within one bands by where they begin, then everything else by the alphabet."""
    group, _, name = label.partition("=")
    begins = re.match(r"(under |over )?(\d+)", name)
    if not begins:
        return GROUPS.index(group), True, 0, name
    return GROUPS.index(group), False, -1 if begins[1] == "under " else int(begins[2]), name


def _script(reference: str, language: str) -> str | None:
    """`hebrew`, `latin`, `other`, or `mixed` where a text switches between its own script and another."""
    share = script_share(reference, language)
    if share is None:
        return None
    if share == 1:
        return find_language(language).scripts[0].lower()
    if share > 0:
        return "mixed"
    return "latin" if _LATIN.search(reference) else "other"
