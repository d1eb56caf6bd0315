"""Transcripts as text, JSON and subtitles: pure functions, shared by `caspi transcribe` and the endpoint."""

import json
import zlib
from collections.abc import Iterable
from typing import Any

from caspi import text
from caspi.errors import RequestError
from caspi.inference.long_form import Segment, Transcript
from caspi.inference.subtitles import as_srt, as_vtt
from caspi.inference.transcription import TokenLogProb

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
    """OpenAI's `json`: the text, its language, and what it was charged for; with log probabilities if there are any.

    `covered_seconds` is ours: it equals the recording's length, since nothing is left out.
    """
    log_probs = [entry for segment in transcript.segments for entry in _log_probs(segment.log_probs)]
    return {
        "text": transcript.text,
        "languages": _languages(transcript),
        **({"logprobs": log_probs} if log_probs else {}),
        "usage": {"type": "duration", "seconds": round(transcript.duration_s, 3)},
        "covered_seconds": round(transcript.covered_s, 3),
    }


def as_verbose_json(transcript: Transcript) -> dict[str, Any]:
    """OpenAI's `verbose_json`. What this model does not tell (tokens, silence) is null or empty.

    `covered_seconds`, `speech_seconds` and a segment's `finish` are ours. Speech is what went to the model.
    """
    return {
        "task": "transcribe",
        "language": (transcript.language or "unknown").lower(),  # OpenAI writes `english`, not `English`
        "duration": round(transcript.duration_s, 3),
        **as_json(transcript),
        "speech_seconds": round(transcript.usage.speech_s, 3),
        "segments": [_segment(number, segment) for number, segment in enumerate(transcript.segments)],
    }


def as_delta(segment: Segment, *, is_first: bool) -> dict[str, Any]:
    """What OpenAI's event `transcript.text.delta` holds. Deltas joined are the text."""
    log_probs = _log_probs(segment.log_probs)
    delta = segment.text if is_first else f" {segment.text}"
    return {"delta": delta, **({"logprobs": log_probs} if log_probs else {})}


def _segment(number: int, segment: Segment) -> dict[str, Any]:
    log_probs = [token.log_prob for token in segment.log_probs or ()]
    return {
        "id": number,
        "seek": 0,
        "start": round(segment.start_s, 3),
        "end": round(segment.end_s, 3),
        "text": segment.text,
        "tokens": [],
        "temperature": 0.0,
        "avg_logprob": sum(log_probs) / len(log_probs) if log_probs else None,
        "compression_ratio": _compression_ratio(segment.text),
        "no_speech_prob": None,
        "finish": segment.finish,
    }


def _languages(transcript: Transcript) -> list[dict[str, str]]:
    """Empty where nobody speaks, or the model made up a name."""
    try:
        return [{"code": text.language_code(transcript.language)}] if transcript.language else []
    except RequestError:
        return []


def _log_probs(tokens: Iterable[TokenLogProb] | None) -> list[dict[str, Any]]:
    return [
        {"token": token.token.decode(errors="replace"), "bytes": list(token.token), "logprob": token.log_prob}
        for token in tokens or ()
    ]


def _compression_ratio(text: str) -> float:
    """As Whisper defines it. Above 2.4 the text repeats itself, which is how these models fail."""
    encoded = text.encode()
    return round(len(encoded) / len(zlib.compress(encoded)), 3)


def _dump(answer: dict[str, Any]) -> str:
    return json.dumps(answer, ensure_ascii=False) + "\n"
