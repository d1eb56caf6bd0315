"""Whisper's timestamp tokens to segments.

`<|0.00|> first<|5.46|><|6.10|> second<|12.02|>`: each text stands between an opening and a closing token.
A slice of a long recording may end in a lone open token, `...<|27.92|>`: a sentence begins there that the next slice
holds whole. A slice may also begin with speech before its first token. Neither is inside a segment, so cutting at
segments leaves both out; keeping them would teach a model to stop listening early.
"""

import re
from dataclasses import dataclass

_TOKEN = re.compile(r"<\|(\d+(?:\.\d+)?)\|>")

# Tokens lie on a grid of 0.02 s and MP3 encoders pad: a segment may end a little after the audio does.
_OVERSHOOT_S = 0.5


@dataclass(frozen=True, slots=True)
class Segment:
    """A span of a recording and what is said in it."""

    start_s: float
    end_s: float | None  # None: never closed
    text: str


def has_timestamps(transcript: str) -> bool:
    """Is there any time token in it?"""
    return _TOKEN.search(transcript) is not None


def cut(transcript: str) -> list[Segment]:
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


def fit(segment: Segment, duration_s: float) -> tuple[float, float] | str:
    """Start and end of a segment within audio of `duration_s`, or what is wrong with them."""
    if segment.end_s is None:
        return f"the segment that opens at {segment.start_s:.2f} s is never closed"
    if segment.end_s <= segment.start_s:
        return f"the segment runs from {segment.start_s:.2f} s back to {segment.end_s:.2f} s"
    if segment.start_s >= duration_s or segment.end_s > duration_s + _OVERSHOOT_S:
        return f"the segment ends at {segment.end_s:.2f} s, the audio at {duration_s:.2f} s"
    return segment.start_s, min(segment.end_s, duration_s)
