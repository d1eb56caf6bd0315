"""Counting what a corpus is like."""

import json
import pickle
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from caspi.corpus.format import SHARD_SCHEMA
from caspi.corpus.statistics import QUANTITIES, Distribution, ExpectedCharacters, Statistics


def table(*rows: dict[str, Any]) -> pa.Table:
    """Utterances in the schema of a shard, of one second with ten characters unless said otherwise."""
    usual = {
        "duration_s": 1.0,
        "text": "שלום עולם!",
        "language": "he",
        "source": "crowd",
        "split": "train",
        "level_dbfs": -25.0,
        "clipped_share": 0.0,
        "snr_db": 20.0,
        "native_sample_rate": 44100,
        "codec": "mp3",
    }
    full = [{**dict.fromkeys(SHARD_SCHEMA.names), **usual, **row} for row in rows]
    return pa.Table.from_pylist(
        [{**row, "num_text_chars": len(row["text"])} for row in full], schema=SHARD_SCHEMA
    ).drop_columns(["audio"])


def numbers(*rows: dict[str, Any]) -> dict[str, Any]:
    return Statistics.of(table(*rows)).to_json()


ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "duration_s": st.integers(1, 1200 * 16000).map(lambda samples: samples / 16000),
            "text": st.text(st.sampled_from("אבגשת ab12.\"'\n\t׃é"), max_size=12),
            "source": st.sampled_from(["crowd", "knesset", "recital"]),
            "split": st.sampled_from(["train", "validation", "test"]),
            "snr_db": st.none() | st.floats(-40, 90, width=32),
            "level_dbfs": st.floats(-120, 0, width=32),
            "speech_s": st.none() | st.floats(0, 30, width=32),
            "clipped_share": st.floats(0, 1, width=32),
            "speaker_id": st.none() | st.just("s1"),
            "codec": st.sampled_from(["mp3", "opus"]),
        }
    ),
    min_size=1,
    max_size=30,
)


@settings(max_examples=60, deadline=None)
@given(ROWS, st.data())
def test_the_sum_of_parts_in_any_order_is_the_whole(rows: list[dict[str, Any]], data: st.DataObject):
    whole = Statistics.of(table(*rows))
    shuffled = data.draw(st.permutations(rows))
    cuts = sorted(data.draw(st.sets(st.integers(0, len(rows)), max_size=4)))
    pieces = [shuffled[start:stop] for start, stop in zip([0, *cuts], [*cuts, len(rows)], strict=True)]
    merged = Statistics.merge(pickle.loads(pickle.dumps(Statistics.of(table(*piece)))) for piece in pieces)
    assert json.dumps(merged.to_json()) == json.dumps(whole.to_json())


def test_hours_are_counted_in_samples_by_split_source_codec_and_rate():
    found = numbers(
        {"duration_s": 1800.0},
        {"duration_s": 900.0, "split": "test", "source": "knesset", "codec": "opus", "native_sample_rate": 48000},
    )
    assert found["hours"] == 0.75
    assert [found["splits"][split]["hours"] for split in ("train", "validation", "test")] == [0.5, 0, 0.25]
    assert {name: each["hours"] for name, each in found["sources"].items()} == {"crowd": 0.5, "knesset": 0.25}
    assert found["codecs"]["opus"] == {"num_utterances": 1, "hours": 0.25}
    assert found["native_sample_rates"]["48000"] == {"num_utterances": 1, "hours": 0.25}


def test_histograms_state_their_bins_and_extremes_stay_exact():
    found = numbers({"duration_s": 0.6}, {"duration_s": 0.9}, {"duration_s": 2.3})["quantities"]["duration_s"]
    assert found["histogram"] == {"unit": "s", "start": 0.5, "bin_width": 0.5, "counts": [2, 0, 0, 1]}
    assert (found["min"], found["max"], found["num_measured"]) == (0.6, 2.3, 3)


def test_quantiles_are_as_exact_as_their_bins():
    generator = np.random.default_rng(1)
    for quantity in QUANTITIES:
        values = generator.uniform(quantity.start, quantity.stop, 5000)
        found = Distribution.of(quantity, values)
        for share in (0.01, 0.5, 0.95):
            exact = np.quantile(values, share, method="inverted_cdf")
            assert abs(found.quantile(quantity, share) - exact) <= quantity.width


def test_what_lies_outside_the_bins_is_counted_in_the_last_one():
    found = numbers({"snr_db": 300.0}, {"snr_db": -300.0})["quantities"]["snr_db"]
    assert sum(found["histogram"]["counts"]) == 2
    assert (found["min"], found["max"]) == (-300, 300)


def test_what_was_not_measured_is_not_in_the_statistics():
    found = numbers({"snr_db": None}, {"snr_db": 10.0})
    assert found["quantities"]["snr_db"]["num_measured"] == 1
    assert "speech_share" not in found["quantities"]
    assert found["speech_hours"] is None
    found = numbers({"speech_s": 900.0, "duration_s": 1800.0}, {"duration_s": 1800.0})
    assert (found["speech_hours"], found["hours_searched_for_speech"], found["hours"]) == (0.25, 0.5, 1.0)
    assert found["quantities"]["speech_share"]["max"] == 0.5


def test_words_stand_between_spaces_without_the_punctuation_around_them():
    found = numbers({"text": 'צה"ל הודיע, (צה"ל) - "הודיע": טוב!'})
    assert found["most_frequent_words"] == [["הודיע", 2], ['צה"ל', 2], ["טוב", 1]]
    assert found["num_words"] == 5


def test_a_word_of_two_utterances_is_never_one():
    assert numbers({"text": "בית"}, {"text": "ספר"})["most_frequent_words"] == [["בית", 1], ["ספר", 1]]


def test_characters_that_do_not_belong_are_marked():
    found = {each["character"]: each for each in numbers({"text": "שש a 5 ж."})["characters"]}
    assert {name for name, each in found.items() if each["is_unexpected"]} == {"a", "ж"}
    assert found["ש"]["count"] == 2
    found = {
        each["character"]: each["is_unexpected"] for each in numbers({"text": "ä ש", "language": "de"})["characters"]
    }
    assert (found["ä"], found["ש"]) == (False, True)


@pytest.mark.parametrize(
    ("language", "text"), [("he", "אם, כן"), ("ar", "نعم؟"), ("ja", "カタカナ、漢字。"), ("hi", "हिन्दी।"), ("ru", "ёж")]
)
def test_every_language_has_its_own_alphabet(language: str, text: str):
    expected = ExpectedCharacters([language])
    assert [character for character in text if character not in expected] == []


def test_digits_latin_letters_speakers_and_clipping_are_counted():
    found = numbers(
        {"text": "בשנת 1948", "speaker_id": "s1"}, {"text": "hello", "clipped_share": 0.5}, {"clipped_share": 0.0001}
    )
    assert found["num_with_digits"] == found["num_with_latin_letters"] == found["num_clipped"] == 1
    assert found["num_with_speaker"] == 1


def test_an_empty_split_and_no_table_at_all_give_numbers_too():
    assert numbers({})["splits"]["test"]["num_utterances"] == 0
    nothing = Statistics.merge([Statistics.of(table().slice(0))]).to_json()
    assert nothing["num_utterances"] == nothing["hours"] == 0
