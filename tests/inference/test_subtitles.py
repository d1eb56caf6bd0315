"""Subtitles, read back by parsers that others wrote."""

import datetime
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from caspi.inference.long_form import Segment
from caspi.inference.subtitles import MAX_CUE_CHARS, MAX_CUE_S, MAX_LINE_CHARS, as_srt, as_vtt, cues

WORDS = st.lists(st.text(st.characters(exclude_categories=["Z", "C"]), min_size=1, max_size=30), min_size=1)


@st.composite
def segments(draw: st.DrawFn) -> list[Segment]:
    """Segments one after another, as a transcript has them."""
    made, now = [], 0.0
    for words in draw(st.lists(WORDS, max_size=5)):
        start_s = now + draw(st.floats(0, 10))
        now = start_s + draw(st.floats(0.1, 30))
        made.append(Segment(start_s, now, " ".join(words), "Hebrew"))
    return made


def test_a_short_segment_is_one_cue() -> None:
    hello = [Segment(0.0, 2.25, "שלום לכולם")]
    assert as_srt(hello) == "1\n00:00:00,000 --> 00:00:02,250\nשלום לכולם\n\n"
    assert as_vtt(hello) == "WEBVTT\n\n00:00:00.000 --> 00:00:02.250\nשלום לכולם\n\n"


def test_times_round_to_the_next_minute_rather_than_to_1000_milliseconds() -> None:
    assert "00:01:00,000 --> 00:01:01,000" in as_srt([Segment(59.9996, 61.0, "x")])
    assert "10:00:00,000" in as_srt([Segment(35999.0, 36000.0, "x")])


def test_a_text_cannot_end_its_cue_or_open_a_tag() -> None:
    spans = [Segment(0.0, 1.0, "one\n\ntwo <i> & --> three")]
    assert as_srt(spans).endswith("one two <i> & -> three\n\n")
    assert as_vtt(spans).endswith("one two &lt;i&gt; &amp; --&gt; three\n\n")


@given(segments())
def test_cues_hold_every_word_in_order_within_their_segments(given_segments: list[Segment]) -> None:
    made = list(cues(given_segments))
    assert "".join(cue.text for cue in made).replace(" ", "") == "".join(s.text for s in given_segments).replace(
        " ", ""
    )
    shown = {word for cue in made for word in cue.text.split()}
    assert all(word in shown for s in given_segments for word in s.text.split() if len(word) <= MAX_LINE_CHARS)
    for before, after in itertools.pairwise(made):
        assert before.start_s <= before.end_s <= after.start_s + 1e-6
    for cue in made:
        assert len(cue.text) <= MAX_CUE_CHARS
    ends = {round(cue.end_s, 6) for cue in made}
    assert {round(segment.end_s, 6) for segment in given_segments} <= ends


def test_a_language_without_spaces_is_divided_too() -> None:
    made = list(cues([Segment(0.0, 30.0, "好" * 200)]))
    assert "".join(cue.text for cue in made) == "好" * 200
    assert all(len(cue.text) <= MAX_CUE_CHARS and cue.end_s - cue.start_s <= MAX_CUE_S for cue in made)


def test_half_a_minute_of_speech_becomes_cues_that_can_be_read() -> None:
    made = list(cues([Segment(10.0, 40.0, " ".join(["דברים"] * 70))]))
    assert all(len(cue.text) <= MAX_CUE_CHARS and cue.end_s - cue.start_s <= MAX_CUE_S + 0.5 for cue in made)
    assert (made[0].start_s, made[-1].end_s) == (10.0, 40.0)


@given(segments())
def test_a_standard_parser_accepts_srt(given_segments: list[Segment]) -> None:
    srt = pytest.importorskip("srt")
    read = list(srt.parse(as_srt(given_segments)))
    made = list(cues(given_segments))
    assert [cue.index for cue in read] == list(range(1, len(made) + 1))
    for there, here in zip(read, made, strict=True):
        assert there.content == here.text.replace("-->", "->")
        assert abs(there.start - datetime.timedelta(seconds=here.start_s)) < datetime.timedelta(milliseconds=1)


@given(segments())
def test_a_standard_parser_accepts_vtt(given_segments: list[Segment]) -> None:
    webvtt = pytest.importorskip("webvtt")
    read = webvtt.from_string(as_vtt(given_segments))
    assert [round(cue.start_in_seconds, 0) for cue in read] == [
        float(int(round(cue.start_s * 1000) // 1000)) for cue in cues(given_segments)
    ]
