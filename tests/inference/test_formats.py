"""Transcriptions as text, JSON and subtitles."""

import json

import pytest

from caspi.inference import formats
from caspi.inference.formats import Segment
from caspi.inference.transcription import Transcription

HELLO = Transcription(text="שלום לכולם", language="Hebrew", duration_s=61.25)
SILENCE = Transcription(text="", language=None, duration_s=3.0)


def test_json_keeps_hebrew_readable() -> None:
    written = formats.render(HELLO, "json")
    assert "שלום לכולם" in written
    assert json.loads(written) == {"text": "שלום לכולם", "usage": {"type": "duration", "seconds": 61.25}}


def test_verbose_json_covers_every_second() -> None:
    answer = formats.as_verbose_json(HELLO)
    assert (answer["language"], answer["duration"]) == ("hebrew", 61.25)
    assert [(s["start"], s["end"], s["text"]) for s in answer["segments"]] == [(0.0, 61.25, "שלום לכולם")]


def test_silence_has_no_segments_and_no_language() -> None:
    answer = formats.as_verbose_json(SILENCE)
    assert (answer["segments"], answer["language"], answer["text"]) == ([], "unknown", "")
    assert formats.render(SILENCE, "srt") == ""
    assert formats.render(SILENCE, "vtt") == "WEBVTT\n\n"


def test_subtitles() -> None:
    assert formats.render(HELLO, "srt") == "1\n00:00:00,000 --> 00:01:01,250\nשלום לכולם\n\n"
    assert formats.render(HELLO, "vtt") == "WEBVTT\n\n00:00:00.000 --> 00:01:01.250\nשלום לכולם\n\n"


def test_times_round_to_the_next_minute_rather_than_to_1000_milliseconds() -> None:
    assert "00:01:00,000 --> 10:00:00,000" in formats.as_srt([Segment(59.9996, 36000.0, "x")])


def test_a_text_cannot_end_its_cue_or_open_a_tag() -> None:
    spans = [Segment(0.0, 1.0, "one\n\ntwo <i> & --> three")]
    assert formats.as_srt(spans).endswith("one two <i> & --> three\n\n")
    assert formats.as_vtt(spans).endswith("one two &lt;i&gt; &amp; --&gt; three\n\n")


def test_repetition_shows_in_the_compression_ratio() -> None:
    looping = formats.as_verbose_json(Transcription("שלום " * 100, "Hebrew", 5.0))
    assert (
        looping["segments"][0]["compression_ratio"]
        > 2.4
        > formats.as_verbose_json(HELLO)["segments"][0]["compression_ratio"]
    )


def test_an_unknown_format_is_an_error() -> None:
    with pytest.raises(ValueError, match="known: text, json"):
        formats.render(HELLO, "docx")
