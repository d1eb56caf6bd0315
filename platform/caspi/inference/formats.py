"""Transcriptions as text, JSON and subtitles: pure functions, shared by `caspi transcribe` and the endpoint."""

import json
import zlib
from collections.abc import Sequence
from typing import Any

from caspi.inference.long_form import Segment, Transcript

FORMATS = ("text", "json", "verbose_json", "srt", "vtt")


def render(transcript: Transcript, response_format: str) -> str:
    """A transcript in one of `FORMATS`, ready to print or to send; ends in a newline.

    Raises:
        ValueError: the format is not one of `FORMATS`.
    """
    match response_format:
        case "text":
            return transcript.text + "\n"
        case "json":
            return _dump(as_json(transcript))
        case "verbose_json":
            return _dump(as_verbose_json(transcript))
        case "srt":
            return as_srt(transcript.segments)
        case "vtt":
            return as_vtt(transcript.segments)
    raise ValueError(f"format {response_format!r} is unknown; known: {', '.join(FORMATS)}")


def as_json(transcript: Transcript) -> dict[str, Any]:
    """OpenAI's `json`: the text, and what it was charged for."""
    return {"text": transcript.text, "usage": _usage(transcript)}


def as_verbose_json(transcript: Transcript) -> dict[str, Any]:
    """OpenAI's `verbose_json`. What this model does not tell (log probabilities, tokens) is null or empty."""
    return {
        "task": "transcribe",
        "language": (transcript.language or "unknown").lower(),  # OpenAI writes `english`, not `English`
        "duration": round(transcript.duration_s, 3),
        "text": transcript.text,
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
            for number, segment in enumerate(transcript.segments)
        ],
        "usage": _usage(transcript),
    }


def as_srt(spans: Sequence[Segment]) -> str:
    """SubRip subtitles."""
    return "".join(
        f"{number}\n{_clock(span.start_s, ',')} --> {_clock(span.end_s, ',')}\n{_one_line(span.text)}\n\n"
        for number, span in enumerate(spans, start=1)
    )


def as_vtt(spans: Sequence[Segment]) -> str:
    """WebVTT subtitles."""
    cues = (
        f"{_clock(span.start_s, '.')} --> {_clock(span.end_s, '.')}\n{_escape_vtt(_one_line(span.text))}\n\n"
        for span in spans
    )
    return "WEBVTT\n\n" + "".join(cues)


def _usage(transcript: Transcript) -> dict[str, Any]:
    return {"type": "duration", "seconds": round(transcript.duration_s, 3)}


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
