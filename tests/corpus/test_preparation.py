import io

import numpy as np
import pyarrow as pa
import pytest
import soundfile

from caspi import audio
from caspi.corpus.leakage import HELD_OUT_SCHEMA, HeldOut
from caspi.corpus.preparation import Preparer, digest
from caspi.corpus.rows import Prepared, Refusal, Row, Segment
from caspi.recipe.data import Cutting, Data, EvaluationSets, Filters
from tests.corpus.conftest import tone


def outcomes(filters=None, cutting=None, held_out=None, **values):
    row = Row(**{"row_id": "r", "recording_id": "r", "transcript": "שלום עולם", "encoded": tone(2.0), **values})
    sources = [{"kind": "folder", "path": "/speech"}]
    data = Data(sources=sources, filters=filters or Filters(), cutting=cutting or Cutting())
    return list(Preparer(data, held_out=held_out).prepare(row))


def wav(samples, sample_rate=16000):
    encoded = io.BytesIO()
    soundfile.write(encoded, samples, sample_rate, format="WAV", subtype="FLOAT")
    return encoded.getvalue()


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
        ({"transcript": "hello there"}, "wrong_script"),
        ({"encoded": wav(np.zeros(32000))}, "silent"),
        ({"encoded": wav(np.sign(np.sin(np.arange(32000) / 20)))}, "clipped"),
        ({"encoded": wav(np.full(32000, np.nan))}, "invalid_samples"),
        ({"encoded": tone(2.0)[:30000]}, "truncated_audio"),
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
    refused, kept = outcomes(transcript="<|0.00|> שלום<|1.00|><|1.00|> עולם<|9.00|>", is_timed=True)
    assert isinstance(kept, Prepared)
    assert (refused.reason, refused.start_s, refused.end_s) == ("bad_timestamps", 1.0, 9.0)


def test_plain_text_of_a_source_without_time_tokens_may_hold_any_number():
    (prepared,) = outcomes(transcript="<|1.00|>שלום<|2.00|>", is_timed=False)
    assert prepared.text == "שלום"


def test_our_own_errors_are_no_rejections(monkeypatch):
    def broken(*args, **kwargs):
        raise MemoryError("out of memory")

    monkeypatch.setattr(audio, "encode_flac", broken)
    with pytest.raises(MemoryError):
        outcomes()


def test_a_refusal_can_be_listened_to_wherever_there_is_sound():
    (refusal,) = outcomes(transcript="hello there")
    assert refusal.text == "hello there"
    assert soundfile.info(io.BytesIO(refusal.example())).duration == pytest.approx(2.0, abs=0.2)


def test_a_recording_with_segments_of_its_own_is_cut_at_them():
    segments = (
        Segment(0.0, 1.0, "שלום", "first", "dana"),
        Segment(1.0, 2.0, "עולם", "second", "avi"),
        Segment(2.0, 3.0, "", "third", "avi"),
    )
    refused, first, second = outcomes(encoded=tone(3.0), transcript=None, segments=segments)

    assert (first.utterance_id, first.speaker_id, first.previous_text) == ("first", "dana", None)
    assert (second.utterance_id, second.speaker_id, second.previous_text) == ("second", "avi", "שלום")
    assert (refused.utterance_id, refused.reason) == ("third", "empty_text")


def test_joined_segments_say_how_many_they_are():
    segments = tuple(Segment(number, number + 1, "מילה", f"s{number}") for number in range(3))
    (joined,) = outcomes(cutting=Cutting(join_up_to_s=30), encoded=tone(3.0), transcript=None, segments=segments)
    assert (joined.utterance_id, joined.text, joined.duration_s) == ("s0+2", "מילה מילה מילה", 3.0)


def test_what_was_said_before_is_kept_as_plain_text():
    (prepared,) = outcomes(previous_text="<|0.00|> בּוֹקֶר<|2.00|> טוב")
    assert prepared.previous_text == "בוקר טוב"


def test_equal_sound_has_an_equal_digest_whatever_the_container():
    samples = (np.random.default_rng(0).standard_normal(32000) * 3000).astype(np.int16)
    digests = set()
    for container in ("WAV", "FLAC", "AIFF"):
        encoded = io.BytesIO()
        soundfile.write(encoded, samples, 16000, format=container, subtype="PCM_16")
        (prepared,) = outcomes(encoded=encoded.getvalue())
        digests.add(prepared.audio_digest)
    assert digests == {digest(samples)}


@pytest.mark.parametrize("match", [("id",), ("audio",)])
def test_a_row_of_an_evaluation_set_is_refused_by_id_or_by_sound(match):
    (kept,) = outcomes()
    known = {"id": {"set": "eval", "id": "r"}, "audio": {"set": "eval", "audio_digest": kept.audio_digest}}
    table = pa.Table.from_pylist([known[match[0]]], schema=HELD_OUT_SCHEMA)
    sets = EvaluationSets(sources=[{"kind": "folder", "path": "/eval"}], match=match)
    (refusal,) = outcomes(held_out=HeldOut([table], sets))
    assert refusal.reason == "in_evaluation_set"
    assert "eval has the" in refusal.detail

    (kept,) = outcomes(held_out=HeldOut([table], sets), row_id="other", encoded=tone(2.5), recording_id="other")
    assert isinstance(kept, Prepared)
