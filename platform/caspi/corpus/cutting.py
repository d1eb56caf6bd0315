"""Recordings with segments to utterances: reading Whisper's time tokens, joining neighbours, fitting to the audio.

`<|0.00|> first<|5.46|><|6.10|> second<|12.02|>`: each text stands between an opening and a closing token.
A slice of a long recording may end in a lone open token, `...<|27.92|>`: a sentence begins there that the next slice
holds whole. A slice may also begin with speech before its first token. Neither is inside a segment, so cutting at
segments leaves both out; keeping them would teach a model to stop listening early.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from caspi.corpus.rows import Segment
from caspi.recipe.data import Cutting

_TOKEN = re.compile(r"<\|(\d+(?:\.\d+)?)\|>")

# Tokens lie on a grid of 0.02 s and MP3 encoders pad: a segment may end a little after the audio does.
_OVERSHOOT_S = 0.5


@dataclass(frozen=True, slots=True)
class Span:
    """One segment, or neighbours joined, within the audio."""

    start_s: float
    end_s: float
    segments: tuple[Segment, ...]

    @property
    def duration_s(self) -> float:
        return self.end_s - self.start_s

    @property
    def speaker_id(self) -> str | None:
        return self.segments[0].speaker_id

    @property
    def text(self) -> str:
        return " ".join(segment.text.strip() for segment in self.segments)


def has_timestamps(transcript: str) -> bool:
    """Is there any time token in it?"""
    return _TOKEN.search(transcript) is not None


def parse(transcript: str) -> list[Segment]:
    """The segments of a transcript, in order. Silence between them, and an open token at the end, are no segments.

    Words before the first token open at 0; words after the last one are a segment that never closes.
    """
    parts = _TOKEN.split(transcript)  # text, time, text, time, text, ...
    times = [float(time) for time in parts[1::2]]
    segments = []
    for start_s, text, end_s in zip([0.0, *times], parts[0::2], [*times, None], strict=True):
        if text.strip():
            segments.append(Segment(start_s, end_s, text))
    return segments


def fit(segment: Segment, duration_s: float) -> Span | str:
    """Where a segment lies within audio of `duration_s`, or what is wrong with it."""
    if segment.end_s == math.inf:
        segment = replace(segment, end_s=duration_s)
    if segment.end_s is None:
        return f"the segment that opens at {segment.start_s:.2f} s is never closed"
    if segment.end_s <= segment.start_s:
        return f"the segment runs from {segment.start_s:.2f} s back to {segment.end_s:.2f} s"
    if segment.start_s < 0 or segment.start_s >= duration_s or segment.end_s > duration_s + _OVERSHOOT_S:
        return (
            f"the segment runs from {segment.start_s:.2f} s to {segment.end_s:.2f} s, the audio to {duration_s:.2f} s"
        )
    return Span(segment.start_s, min(segment.end_s, duration_s), (segment,))


def join(spans: Sequence[Span], cutting: Cutting, max_duration_s: float) -> list[Span]:
    """Neighbours joined as the recipe says; the order stays.

    With `join_up_to_s` as many as fit. Without it only a span that is too short alone, to its nearer neighbour.
    """
    if cutting.join_up_to_s is not None:
        spans = _join_all(spans, cutting, cutting.join_up_to_s)
    return _join_short(spans, cutting, max(max_duration_s, cutting.join_up_to_s or 0))


def _join_all(spans: Sequence[Span], cutting: Cutting, up_to_s: float) -> list[Span]:
    joined: list[Span] = []
    for span in spans:
        if joined and _can_join(joined[-1], span, cutting, up_to_s):
            joined[-1] = _merge(joined[-1], span)
        else:
            joined.append(span)
    return joined


def _join_short(spans: Sequence[Span], cutting: Cutting, up_to_s: float) -> list[Span]:
    joined = list(spans)
    place = 0
    while place < len(joined):
        span = joined[place]
        neighbours = [
            (_gap(joined[first], joined[first + 1]), first)
            for first in (place - 1, place)
            if 0 <= first < len(joined) - 1 and _can_join(joined[first], joined[first + 1], cutting, up_to_s)
        ]
        if span.duration_s >= cutting.min_segment_s or not neighbours:
            place += 1
            continue
        _, first = min(neighbours)
        joined[first : first + 2] = [_merge(joined[first], joined[first + 1])]
        place = first  # what came of it may still be too short
    return joined


def _can_join(left: Span, right: Span, cutting: Cutting, up_to_s: float) -> bool:
    return (
        left.speaker_id == right.speaker_id
        and _gap(left, right) <= cutting.max_gap_s
        and max(left.end_s, right.end_s) - left.start_s <= up_to_s
    )


def _gap(left: Span, right: Span) -> float:
    return right.start_s - left.end_s


def _merge(left: Span, right: Span) -> Span:
    return Span(left.start_s, max(left.end_s, right.end_s), left.segments + right.segments)
