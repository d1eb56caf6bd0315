import pytest

from caspi import audio
from caspi.corpus.preparation import prepare_row
from caspi.corpus.rows import Prepared, Refusal, Row
from caspi.recipe.data import Filters
from caspi.text import normalizer
from tests.corpus.conftest import tone


def outcomes(filters=None, **values):
    row = Row(**{"row_id": "r", "recording_id": "r", "transcript": "שלום עולם", "encoded": tone(2.0), **values})
    return list(prepare_row(row, filters or Filters(), normalizer("he")))


def test_a_good_row_becomes_16_khz_flac_and_normal_text():
    (prepared,) = outcomes(encoded=tone(2.0, sample_rate=44100), transcript="<|im_end|>צה״ל  הוֹדִיעַ")

    assert isinstance(prepared, Prepared)
    assert prepared.text == 'צה"ל הודיע'
    assert prepared.duration_s == pytest.approx(2.0)
    assert prepared.audio[:4] == b"fLaC"
    assert audio.decode(prepared.audio, source="r").duration_s == prepared.duration_s


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"encoded": tone(0.1)}, "too_short"),
        ({"encoded": tone(31.0)}, "too_long"),
        ({"transcript": None}, "empty_text"),
        ({"transcript": " \n"}, "empty_text"),
        ({"transcript": "<|notimestamps|>...!"}, "empty_text"),
        ({"transcript": "א", "encoded": tone(10.0)}, "too_few_characters"),
        ({"transcript": "מילה " * 100}, "too_many_characters"),
        ({"quality_score": 0.5}, "low_quality_score"),
        ({"flags": ("noisy",)}, "noisy"),
        ({"flags": ("too_long", "skipped")}, "skipped"),
        ({"encoded": b""}, "empty_audio"),
        ({"encoded": b"garbage" * 100}, "undecodable_audio"),
        ({"problem": ("missing_audio", "x.wav: no such file"), "encoded": None}, "missing_audio"),
    ],
)
def test_every_refusal_has_its_reason(values, reason):
    (refusal,) = outcomes(Filters(min_quality_score=0.8), **values)
    assert isinstance(refusal, Refusal)
    assert refusal.reason == reason
    assert refusal.detail


def test_flags_that_the_recipe_does_not_refuse_are_no_refusal():
    (prepared,) = outcomes(Filters(refused_flags=()), flags=("noisy",))
    assert isinstance(prepared, Prepared)


def test_timed_rows_are_cut_into_their_segments():
    first, second = outcomes(transcript="<|0.20|> שלום<|0.80|><|1.00|> עולם<|1.60|><|1.80|>", is_timed=True)

    assert (first.utterance_id, first.text, first.start_s, first.end_s) == ("r-000", "שלום", 0.2, 0.8)
    assert (second.utterance_id, second.text, second.start_s, second.end_s) == ("r-001", "עולם", 1.0, 1.6)
    assert first.duration_s == pytest.approx(0.6)


def test_a_segment_is_refused_alone():
    kept, refused = outcomes(transcript="<|0.00|> שלום<|1.00|><|1.00|> עולם<|9.00|>", is_timed=True)
    assert isinstance(kept, Prepared)
    assert (refused.reason, refused.start_s, refused.end_s) == ("bad_timestamps", 1.0, 9.0)


def test_plain_text_of_a_source_without_time_tokens_may_hold_any_number():
    (prepared,) = outcomes(transcript="<|1.00|>שלום<|2.00|>", is_timed=False)
    assert prepared.text == "שלום"


def test_our_own_errors_are_no_rejections(monkeypatch):
    def broken(*args, **kwargs):
        raise MemoryError("out of memory")

    monkeypatch.setattr(audio, "decode", broken)
    with pytest.raises(MemoryError):
        outcomes()
