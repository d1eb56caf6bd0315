"""Segments as subtitles: cues that can be read in time, in SubRip and WebVTT."""

import math
from collections.abc import Iterator, Sequence

from caspi.inference.long_form import Segment

# What broadcasters allow on the screen at once: two lines of 42 letters, for seven seconds.
MAX_CUE_S = 7.0
MAX_LINE_CHARS = 42
MAX_CUE_CHARS = 2 * MAX_LINE_CHARS


def cues(segments: Sequence[Segment]) -> Iterator[Segment]:
    """The segments, long ones in several parts.

    Where a segment is divided, the time is an estimate: each part gets the share of the segment's time that it has of
    its letters. The segment's own start and end are measured.
    """
    for segment in segments:
        lines = _lines(segment)
        num_chars = sum(map(len, lines)) or 1
        start_s, done = segment.start_s, 0
        for line in lines:
            done += len(line)
            end_s = segment.start_s + (segment.end_s - segment.start_s) * done / num_chars
            yield Segment(start_s, end_s, line, segment.language)
            start_s = end_s


def as_srt(segments: Sequence[Segment]) -> str:
    """SubRip subtitles."""
    return "".join(
        f"{number}\n{_clock(cue.start_s, ',')} --> {_clock(cue.end_s, ',')}\n{_plain(cue.text)}\n\n"
        for number, cue in enumerate(cues(segments), start=1)
    )


def as_vtt(segments: Sequence[Segment]) -> str:
    """WebVTT subtitles."""
    written = (
        f"{_clock(cue.start_s, '.')} --> {_clock(cue.end_s, '.')}\n{_escape(cue.text)}\n\n" for cue in cues(segments)
    )
    return "WEBVTT\n\n" + "".join(written)


def _lines(segment: Segment) -> list[str]:
    """The segment's text in lines of about the same length, which fit a cue's letters and seconds."""
    words = segment.text.split()
    num_chars = sum(map(len, words)) + len(words) - 1
    num_lines = max(math.ceil(num_chars / MAX_CUE_CHARS), math.ceil((segment.end_s - segment.start_s) / MAX_CUE_S))
    longest = min(MAX_CUE_CHARS, math.ceil(num_chars / max(1, num_lines)))
    lines: list[str] = []
    for word in _divided(words, longest):
        if lines and len(lines[-1]) + 1 + len(word) <= longest:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines


def _divided(words: Sequence[str], longest: int) -> Iterator[str]:
    """The words; what is longer than a line is a sentence of a language without spaces, and is divided anywhere."""
    for word in words:
        length = len(word) if len(word) <= MAX_LINE_CHARS else longest
        yield from (word[first : first + length] for first in range(0, len(word), length))


def _clock(seconds: float, point: str) -> str:
    """`00:01:02,345`. Milliseconds are rounded once, so 59.9996 s is a minute and not `00:00:59,1000`."""
    seconds_whole, milliseconds = divmod(round(seconds * 1000), 1000)
    minutes_whole, second = divmod(seconds_whole, 60)
    hour, minute = divmod(minutes_whole, 60)
    return f"{hour:02d}:{minute:02d}:{second:02d}{point}{milliseconds:03d}"


def _plain(text: str) -> str:
    # Players would take an arrow for the line with the times.
    return text.replace("-->", "->")


def _escape(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
