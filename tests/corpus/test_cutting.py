import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from caspi.corpus.cutting import Span, fit, has_timestamps, join, parse
from caspi.corpus.rows import Segment
from caspi.recipe.data import Cutting


def test_each_text_between_two_tokens_is_a_segment():
    assert parse("<|0.00|> שלום לך<|5.46|><|6.10|> עולם<|12.02|>") == [
        Segment(0.0, 5.46, " שלום לך"),
        Segment(6.1, 12.02, " עולם"),
    ]


def test_an_open_token_at_the_end_cuts_off_what_follows():
    assert parse("<|0.00|> שלום<|27.90|><|27.92|>") == [Segment(0.0, 27.9, " שלום")]


def test_speech_before_the_first_token_is_cut_off():
    assert parse("<|4.20|> שלום<|6.00|>") == [Segment(4.2, 6.0, " שלום")]


def test_a_token_may_close_one_segment_and_open_the_next():
    assert parse("<|0.00|>א<|1.00|>ב<|2.00|>") == [Segment(0.0, 1.0, "א"), Segment(1.0, 2.0, "ב")]


def test_silence_alone_has_no_segments():
    assert parse("<|0.00|><|5.00|>") == []


def test_words_that_are_never_closed_are_kept_apart():
    assert parse("<|0.00|>א<|1.00|><|2.00|>ב") == [Segment(0.0, 1.0, "א"), Segment(2.0, None, "ב")]


def test_words_before_the_first_token_open_at_zero():
    assert parse("א<|1.00|>") == [Segment(0.0, 1.0, "א")]


def test_other_tokens_are_no_timestamps():
    assert not has_timestamps("<|he|>שלום<|notimestamps|>")


@given(st.lists(st.text(alphabet="אב <|>0.", max_size=6), max_size=8))
def test_no_word_is_lost_whatever_the_tokens(texts):
    transcript = "".join(f"<|{number}.00|>{text}" for number, text in enumerate(texts))
    assert "".join("".join(segment.text.split()) for segment in parse(transcript)) == "".join("".join(texts).split())


def test_a_segment_may_end_a_little_after_the_audio():
    span = fit(Segment(1.0, 10.02, "א"), 10.0)
    assert isinstance(span, Span)
    assert (span.start_s, span.end_s) == (1.0, 10.0)


def test_a_segment_without_end_runs_to_the_end_of_the_audio():
    span = fit(Segment(1.0, math.inf, "א"), 10.0)
    assert isinstance(span, Span)
    assert (span.start_s, span.end_s) == (1.0, 10.0)


@pytest.mark.parametrize(
    ("segment", "problem"),
    [
        (Segment(2.0, None, "א"), "never closed"),
        (Segment(-1.0, 2.0, "א"), "from -1.00 s"),
        (Segment(2.0, 2.0, "א"), "back to"),
        (Segment(3.0, 2.0, "א"), "back to"),
        (Segment(1.0, 20.0, "א"), "the audio to 10.00"),
        (Segment(10.0, 10.2, "א"), "the audio to 10.00"),
    ],
)
def test_what_does_not_fit_says_why(segment, problem):
    assert problem in fit(segment, 10.0)


def spans(*times, speakers=None):
    """Spans at (start, end), each saying its own number."""
    speakers = speakers or [None] * len(times)
    return [
        Span(start, end, (Segment(start, end, str(number), speaker_id=speaker),))
        for number, ((start, end), speaker) in enumerate(zip(times, speakers, strict=True))
    ]


def shape(joined):
    return [(span.start_s, span.end_s, span.text) for span in joined]


def test_segments_stay_alone_unless_the_recipe_joins_them():
    assert shape(join(spans((0, 5), (5, 9)), Cutting(), 30)) == [(0, 5, "0"), (5, 9, "1")]


def test_neighbours_are_joined_up_to_the_bound():
    joined = join(spans((0, 10), (10.5, 20), (20.5, 29), (29.5, 35)), Cutting(join_up_to_s=30), 30)
    assert shape(joined) == [(0, 29, "0 1 2"), (29.5, 35, "3")]


def test_a_long_pause_is_never_bridged():
    assert len(join(spans((0, 5), (6.5, 9)), Cutting(join_up_to_s=30, max_gap_s=1), 30)) == 2
    assert len(join(spans((0, 5), (6.5, 9)), Cutting(join_up_to_s=30, max_gap_s=2), 30)) == 1


def test_two_speakers_are_never_joined():
    assert len(join(spans((0, 5), (5, 9), speakers=["a", "b"]), Cutting(join_up_to_s=30), 30)) == 2


def test_a_short_segment_goes_to_its_nearer_neighbour():
    assert shape(join(spans((0, 3), (3.5, 3.8), (3.9, 7)), Cutting(), 30)) == [(0, 3, "0"), (3.5, 7, "1 2")]
    assert shape(join(spans((0, 3), (3.1, 3.4), (3.9, 7)), Cutting(), 30)) == [(0, 3.4, "0 1"), (3.9, 7, "2")]


def test_short_segments_in_a_row_become_one():
    assert shape(join(spans((0, 0.2), (0.2, 0.4), (0.4, 0.6)), Cutting(), 30)) == [(0, 0.6, "0 1 2")]


def test_a_short_segment_far_from_all_others_stays_and_is_judged():
    assert shape(join(spans((0, 3), (9, 9.2)), Cutting(), 30)) == [(0, 3, "0"), (9, 9.2, "1")]


@given(
    st.lists(st.tuples(st.floats(0, 2), st.floats(0.02, 12)), max_size=12),
    st.sampled_from([None, 5.0, 30.0]),
    st.floats(0, 2),
)
def test_joining_loses_no_segment_and_keeps_the_bounds(lengths, up_to, max_gap):
    times, end = [], 0.0
    for gap, length in lengths:
        times.append((end + gap, end + gap + length))
        end = times[-1][1]
    joined = join(spans(*times), Cutting(join_up_to_s=up_to, max_gap_s=max_gap), 30.0)

    assert [segment.text for span in joined for segment in span.segments] == [
        str(number) for number in range(len(times))
    ]
    for span in joined:
        assert (span.start_s, span.end_s) == (span.segments[0].start_s, span.segments[-1].end_s)
        assert len(span.segments) == 1 or span.duration_s <= 30.0
