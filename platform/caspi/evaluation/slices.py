"""The same score for parts of a test set: by source, by speaker and by duration."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from caspi.evaluation.metrics import ErrorCounts, pool

# Of a test set with more speakers than a person reads through, those with the most utterances are shown.
_MAX_SPEAKERS = 20

# Upper bounds in seconds. Short clips miss context, long ones are where decoding loops and drops sentences.
_DURATION_BOUNDS_S = (2, 5, 10, 20, 30)


def duration_band(duration_s: float) -> str:
    """`2-5 s` for 3.2; the upper bound belongs to the band."""
    low = 0
    for high in _DURATION_BOUNDS_S:
        if duration_s <= high:
            return f"{low}-{high} s"
        low = high
    return f"over {low} s"


def score_slices(
    counts: ErrorCounts,
    *,
    sources: Sequence[str],
    speakers: Sequence[str | None],
    durations_s: Sequence[float],
    recordings: Sequence[str],
) -> dict[str, dict[str, dict[str, Any]]]:
    """`{"source": {NAME: numbers}, "speaker": {NAME: numbers}, "duration": {BAND: numbers}}`.

    Sources and speakers by name, bands from short to long. Utterances of unknown speakers are in no speaker's slice.
    """
    frequent = Counter(speaker for speaker in speakers if speaker is not None).most_common(_MAX_SPEAKERS)
    bands = [duration_band(duration_s) for duration_s in durations_s]
    order = {band: duration_s for duration_s, band in sorted(zip(durations_s, bands, strict=True), reverse=True)}
    slices = {
        "source": {name: _numbers(counts, sources, name, recordings) for name in sorted(set(sources))},
        "speaker": {name: _numbers(counts, speakers, name, recordings) for name, _ in sorted(frequent)},
        "duration": {band: _numbers(counts, bands, band, recordings) for band in sorted(order, key=lambda b: order[b])},
    }
    return {dimension: parts for dimension, parts in slices.items() if parts}


def _numbers(
    counts: ErrorCounts, values: Sequence[str | None], value: str, recordings: Sequence[str]
) -> dict[str, Any]:
    chosen = np.flatnonzero(np.asarray(values, object) == value)
    score = pool(counts.select(chosen), clusters=[recordings[int(position)] for position in chosen])
    return {
        "wer": score.wer,
        "wer_interval": list(score.wer_interval),
        "cer": score.cer,
        "reference_words": score.reference_words,
        "num_utterances": score.num_utterances,
    }
