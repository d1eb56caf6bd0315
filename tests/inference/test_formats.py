"""Transcripts as text and JSON."""

import json

import pytest

from caspi.inference import formats
from caspi.inference.long_form import Segment, Transcript, Usage
from caspi.inference.transcription import TokenLogProb


def transcript(*segments: Segment, duration_s: float = 61.25, language: str | None = "Hebrew") -> Transcript:
    text = " ".join(segment.text for segment in segments)
    return Transcript(text, language, duration_s, duration_s, segments, Usage(duration_s, speech_s=4.5))


HELLO = transcript(Segment(1.0, 5.5, "שלום לכולם", "Hebrew"))
SILENCE = transcript(duration_s=3.0, language=None)


def test_json_keeps_hebrew_readable_and_says_what_was_covered() -> None:
    written = formats.render(HELLO, "json")
    assert "שלום לכולם" in written
    assert json.loads(written) == {
        "text": "שלום לכולם",
        "languages": [{"code": "he"}],
        "usage": {"type": "duration", "seconds": 61.25},
        "covered_seconds": 61.25,
    }


def test_verbose_json_has_times_and_covers_every_second() -> None:
    answer = formats.as_verbose_json(HELLO)
    assert (answer["task"], answer["language"], answer["duration"]) == ("transcribe", "hebrew", 61.25)
    assert (answer["covered_seconds"], answer["speech_seconds"]) == (61.25, 4.5)
    assert [(s["id"], s["start"], s["end"], s["text"]) for s in answer["segments"]] == [(0, 1.0, 5.5, "שלום לכולם")]


def test_silence_has_no_segments_and_no_language() -> None:
    answer = formats.as_verbose_json(SILENCE)
    assert (answer["segments"], answer["language"], answer["text"]) == ([], "unknown", "")
    assert formats.as_json(SILENCE)["languages"] == []
    assert formats.render(SILENCE, "text") == "\n"
    assert formats.render(SILENCE, "srt") == ""
    assert formats.render(SILENCE, "vtt") == "WEBVTT\n\n"


def test_a_language_that_nobody_knows_has_no_code() -> None:
    made_up = transcript(Segment(0.0, 1.0, "x", "Elvish"), language="Elvish")
    assert formats.as_json(made_up)["languages"] == []
    assert formats.as_verbose_json(made_up)["language"] == "elvish"


def test_log_probabilities_are_of_tokens_even_where_a_letter_is_split_between_them() -> None:
    tokens = (TokenLogProb("ש".encode()[:1], -0.5), TokenLogProb("ש".encode()[1:], -1.5))
    heard = transcript(Segment(0.0, 1.0, "ש", "Hebrew", tokens))
    listed = formats.as_json(heard)["logprobs"]
    assert bytes(listed[0]["bytes"] + listed[1]["bytes"]).decode() == "ש"
    assert [entry["logprob"] for entry in listed] == [-0.5, -1.5]
    assert formats.as_verbose_json(heard)["segments"][0]["avg_logprob"] == -1.0
    assert "logprobs" not in formats.as_json(HELLO)


def test_repetition_shows_in_the_compression_ratio() -> None:
    def ratio(text: str) -> float:
        return formats.as_verbose_json(transcript(Segment(0.0, 5.0, text)))["segments"][0]["compression_ratio"]

    assert ratio("שלום " * 100) > 2.4 > ratio("שלום לכולם")


def test_a_text_that_was_cut_off_shows() -> None:
    heard = transcript(Segment(0.0, 1.0, "x"), Segment(1.0, 2.0, "y", finish="repetition"))
    assert [segment["finish"] for segment in formats.as_verbose_json(heard)["segments"]] == ["stop", "repetition"]


def test_an_unknown_format_is_an_error() -> None:
    with pytest.raises(ValueError, match="known: text, json"):
        formats.render(HELLO, "docx")
