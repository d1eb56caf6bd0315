import pytest
from hypothesis import given
from hypothesis import strategies as st

from caspi.corpus.cutting import Segment, cut, fit, has_timestamps


def test_each_text_between_two_tokens_is_a_segment():
    assert cut("<|0.00|> שלום לך<|5.46|><|6.10|> עולם<|12.02|>") == [
        Segment(0.0, 5.46, " שלום לך"),
        Segment(6.1, 12.02, " עולם"),
    ]


def test_an_open_token_at_the_end_cuts_off_what_follows():
    assert cut("<|0.00|> שלום<|27.90|><|27.92|>") == [Segment(0.0, 27.9, " שלום")]


def test_speech_before_the_first_token_is_cut_off():
    assert cut("<|4.20|> שלום<|6.00|>") == [Segment(4.2, 6.0, " שלום")]


def test_a_token_may_close_one_segment_and_open_the_next():
    assert cut("<|0.00|>א<|1.00|>ב<|2.00|>") == [Segment(0.0, 1.0, "א"), Segment(1.0, 2.0, "ב")]


def test_silence_alone_has_no_segments():
    assert cut("<|0.00|><|5.00|>") == []


def test_words_that_are_never_closed_are_kept_apart():
    assert cut("<|0.00|>א<|1.00|><|2.00|>ב") == [Segment(0.0, 1.0, "א"), Segment(2.0, None, "ב")]


def test_words_before_the_first_token_open_at_zero():
    assert cut("א<|1.00|>") == [Segment(0.0, 1.0, "א")]


def test_other_tokens_are_no_timestamps():
    assert not has_timestamps("<|he|>שלום<|notimestamps|>")


@given(st.lists(st.text(alphabet="אב <|>0.", max_size=6), max_size=8))
def test_no_word_is_lost_whatever_the_tokens(texts):
    transcript = "".join(f"<|{number}.00|>{text}" for number, text in enumerate(texts))
    assert "".join("".join(segment.text.split()) for segment in cut(transcript)) == "".join("".join(texts).split())


def test_a_segment_may_end_a_little_after_the_audio():
    assert fit(Segment(1.0, 10.02, "א"), 10.0) == (1.0, 10.0)


@pytest.mark.parametrize(
    ("segment", "problem"),
    [
        (Segment(2.0, None, "א"), "never closed"),
        (Segment(2.0, 2.0, "א"), "back to"),
        (Segment(3.0, 2.0, "א"), "back to"),
        (Segment(1.0, 20.0, "א"), "the audio at 10.00"),
        (Segment(10.0, 10.2, "א"), "the audio at 10.00"),
    ],
)
def test_what_does_not_fit_says_why(segment, problem):
    assert problem in fit(segment, 10.0)
