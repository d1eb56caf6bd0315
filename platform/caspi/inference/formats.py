"""Transcriptions as text, JSON and subtitles: pure functions, shared by `caspi transcribe` and the endpoint."""

import json
import zlib
from dataclasses import dataclass
from typing import Any

from caspi.inference.transcription import Transcription

FORMATS = ("text", "json", "verbose_json", "srt", "vtt")


@dataclass(frozen=True, slots=True)
class Segment:
    """A span of a recording and what was said in it."""

    start_s: float
    end_s: float
    text: str


def segments(transcription: Transcription) -> list[Segment]:
    """The spans of a transcription: one that covers the whole recording, or none where nothing was said."""
    if not transcription.text:
        return []
    return [Segment(start_s=0.0, end_s=transcription.duration_s, text=transcription.text)]


def render(transcription: Transcription, response_format: str) -> str:
    """A transcription in one of `FORMATS`, ready to print or to send; ends in a newline.

    Raises:
        ValueError: the format is not one of `FORMATS`.
    """
    match response_format:
        case "text":
            return transcription.text + "\n"
        case "json":
            return _dump(as_json(transcription))
        case "verbose_json":
            return _dump(as_verbose_json(transcription))
        case "srt":
            return as_srt(segments(transcription))
        case "vtt":
            return as_vtt(segments(transcription))
    raise ValueError(f"format {response_format!r} is unknown; known: {', '.join(FORMATS)}")


def as_json(transcription: Transcription) -> dict[str, Any]:
    """OpenAI's `json`: the text, and what it was charged for."""
    return {"text": transcription.text, "usage": _usage(transcription)}


def as_verbose_json(transcription: Transcription) -> dict[str, Any]:
    """OpenAI's `verbose_json`. What this model does not tell (log probabilities, tokens) is null or empty."""
    return {
        "task": "transcribe",
        "language": (transcription.language or "unknown").lower(),  # OpenAI writes `english`, not `English`
        "duration": round(transcription.duration_s, 3),
        "text": transcription.text,
        "segments": [
            {
                "id": number,
                "seek": 0,
                "start": round(segment.start_s, 3),
                "end": round(segment.end_s, 3),
                "text": segment.text,
                "tokens": [],
                "temperature": 0.0,
                "avg_logprob": None,
                "compression_ratio": _compression_ratio(segment.text),
                "no_speech_prob": None,
            }
            for number, segment in enumerate(segments(transcription))
        ],
        "usage": _usage(transcription),
    }


def as_srt(spans: list[Segment]) -> str:
    """SubRip subtitles."""
    return "".join(
        f"{number}\n{_clock(span.start_s, ',')} --> {_clock(span.end_s, ',')}\n{_one_line(span.text)}\n\n"
        for number, span in enumerate(spans, start=1)
    )


def as_vtt(spans: list[Segment]) -> str:
    """WebVTT subtitles."""
    cues = (
        f"{_clock(span.start_s, '.')} --> {_clock(span.end_s, '.')}\n{_escape_vtt(_one_line(span.text))}\n\n"
        for span in spans
    )
    return "WEBVTT\n\n" + "".join(cues)


def _usage(transcription: Transcription) -> dict[str, Any]:
    return {"type": "duration", "seconds": round(transcription.duration_s, 3)}


def _compression_ratio(text: str) -> float:
    """As Whisper defines it. Above 2.4 the text repeats itself, which is how these models fail."""
    encoded = text.encode()
    return round(len(encoded) / len(zlib.compress(encoded)), 3)


def _clock(seconds: float, point: str) -> str:
    """`00:01:02,345`. Milliseconds are rounded once, so 59.9996 s is a minute and not `00:00:59,1000`."""
    seconds_whole, milliseconds = divmod(round(seconds * 1000), 1000)
    minutes_whole, second = divmod(seconds_whole, 60)
    hour, minute = divmod(minutes_whole, 60)
    return f"{hour:02d}:{minute:02d}:{second:02d}{point}{milliseconds:03d}"


def _one_line(text: str) -> str:
    # An empty line would end the cue in the middle of its text.
    return " ".join(text.split())


def _escape_vtt(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _dump(answer: dict[str, Any]) -> str:
    return json.dumps(answer, ensure_ascii=False) + "\n"
