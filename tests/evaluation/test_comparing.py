"""Evaluations side by side."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from caspi.errors import RequestError, ResultsError
from caspi.evaluation.comparing import compare
from caspi.evaluation.intervals import difference_interval, interval
from tests.evaluation.hearing import hear
from tests.evaluation.made_up import Answers, evaluated

SAID = "אחת שתיים שלוש ארבע חמש שש שבע שמונה תשע עשר"


def answers(share_wrong: float, *, seed: int, num_utterances: int = 200) -> Answers:
    """Ten words each, of which some are heard wrong. Utterance 7k is hard for everybody."""
    random = np.random.default_rng(seed)
    texts = {}
    for number in range(num_utterances):
        wrong = random.random(10) < share_wrong + 0.6 * (number % 7 == 0)
        heard = " ".join("טעות" if each else word for each, word in zip(wrong, SAID.split(), strict=True))
        texts[f"u{number:03d}"] = (SAID, heard)
    return texts


def test_the_better_model_is_said_to_be_better_and_how_surely():
    comparison = compare([evaluated(answers(0.2, seed=1)), evaluated(answers(0.1, seed=2))], ["before", "after"])
    (pair,) = comparison.summary["pairs"]
    assert (pair["baseline"], pair["system"]) == ("before", "after")
    assert pair["wer_difference"] == pytest.approx(pair["wer"] - pair["baseline_wer"])
    assert pair["wer_difference"] == pytest.approx(-0.1, abs=0.03)
    low, high = pair["wer_difference_interval"]
    assert low < pair["wer_difference"] < high < 0
    assert pair["probability_better"] > 0.999
    assert pair["p_value"] < 0.001

    (turned,) = compare(
        [evaluated(answers(0.1, seed=2)), evaluated(answers(0.2, seed=1))], ["after", "before"]
    ).summary["pairs"]
    assert turned["wer_difference"] == -pair["wer_difference"]
    assert turned["probability_better"] == pytest.approx(1 - pair["probability_better"])
    assert turned["p_value"] == pair["p_value"]
    assert (turned["num_better"], turned["num_worse"]) == (pair["num_worse"], pair["num_better"])


def test_a_model_is_neither_better_nor_worse_than_itself():
    same = evaluated(answers(0.2, seed=1))
    (pair,) = compare([same, same], ["a", "b"]).summary["pairs"]
    assert (pair["wer_difference"], pair["wer_difference_interval"]) == (0, [0, 0])
    assert (pair["probability_better"], pair["p_value"]) == (0.5, 1)
    assert (pair["num_changed"], pair["num_better"], pair["num_worse"]) == (0, 0, 0)
    assert all(part["p_value_holm"] is None for part in pair["slices"]["source"].values()), "it is the only one"


def test_the_same_seed_gives_the_same_figures():
    found = [
        compare([evaluated(answers(0.2, seed=1)), evaluated(answers(0.19, seed=2))], ["a", "b"]).summary
        for _ in range(2)
    ]
    assert found[0] == found[1]


def test_what_is_hard_for_both_widens_their_own_intervals_and_not_that_of_their_difference():
    before = {f"u{n}": (SAID, " ".join(["טעות"] * 9 + ["עשר"]) if n % 2 else SAID) for n in range(60)}
    after = before | {f"u{n}": (SAID, SAID.replace("אחת", "טעות")) for n in range(0, 60, 6)}
    comparison = compare([evaluated(before), evaluated(after)], ["before", "after"])
    (pair,) = comparison.summary["pairs"]
    low, high = comparison.summary["systems"][0]["wer_interval"]
    assert high - low > 0.2
    low, high = pair["wer_difference_interval"]
    assert 0 < low < 1 / 60 < high < 0.04


def test_slices_are_compared_each_for_itself():
    sources = {f"u{n:03d}": "clean" if n < 100 else "noisy" for n in range(200)}
    before = answers(0.2, seed=1)
    after = before | {key: (SAID, SAID) for key, source in sources.items() if source == "clean"}
    (pair,) = compare(
        [evaluated(before, sources=sources), evaluated(after, sources=sources)], ["before", "after"]
    ).summary["pairs"]
    clean, noisy = (pair["slices"]["source"][name] for name in ("clean", "noisy"))
    assert (clean["wer"], clean["num_utterances"], clean["reference_words"]) == (0, 100, 1000)
    assert clean["probability_better"] == 1
    assert noisy["wer_difference"] == 0
    assert clean["p_value_holm"] > clean["p_value"]
    assert clean["p_value_holm"] == pytest.approx(2 * clean["p_value"]), (
        "of the two sources; other groups have one slice"
    )
    assert pair["slices"]["duration"]["2-5 s"]["p_value_holm"] is None
    assert sum(pair["slices"]["source"][name]["num_utterances"] for name in ("clean", "noisy")) == 200


def test_speakers_that_nobody_is_told_of_cost_the_others_no_certainty():
    speakers = [f"s{place % 600}" for place in range(1200)]
    sources = ["phone" if place % 2 else "studio" for place in range(1200)]
    texts = [(SAID, SAID)] * 1200
    worse = [(SAID, "" if source == "phone" else SAID) for source in sources]
    before, after = (hear(each, source=sources, speaker_id=speakers) for each in (worse, texts))
    (pair,) = compare([before, after], ["before", "after"]).summary["pairs"]
    assert len(pair["slices"]["speaker"]) == 20
    assert pair["slices"]["source"]["phone"]["p_value_holm"] < 0.01
    assert list(pair["slices"]) == list(before.metrics["slices"]), "in the same order too"


def test_three_stand_in_one_table_and_what_changed_most_comes_first():
    texts = {"same": ("שלום", "שלום"), "one": ("שלום לך", "שלום לכם"), "three": ("אני הולך הביתה", "")}
    second = texts | {"three": ("אני הולך הביתה", "אני הולך הביתה")}
    third = texts | {"one": ("שלום לך", "שלום לך")}
    comparison = compare([evaluated(each) for each in (texts, second, third)], ["a", "b", "c"])
    assert [(pair["baseline"], pair["system"]) for pair in comparison.summary["pairs"]] == [
        ("a", "b"), ("a", "c"), ("b", "c")
    ]  # fmt: skip
    assert [row["utterance_id"] for row in comparison.utterances.to_pylist()] == ["three", "one", "same"]
    first = comparison.utterances.to_pylist()[0]
    assert first["hypotheses"] == ["", "אני הולך הביתה", ""]
    assert (first["word_errors"], first["change"]) == ([3, 0, 3], 3)
    assert [row["utterance_id"] for row in comparison.summary["changed_most"]] == ["three", "one"]
    assert [system["wer"] for system in comparison.summary["systems"]] == pytest.approx([4 / 6, 1 / 6, 3 / 6])


def test_only_utterances_that_all_were_scored_on_count_and_the_rest_is_counted():
    texts = {"a": ("שלום", "שלום"), "b": ("שלום", "לא"), "c": ("שלום", "לא")}
    fewer = {key: texts[key] for key in ("a", "b")}
    comparison = compare([evaluated(texts, failed=["b"]), evaluated(fewer)], ["one", "two"])
    assert comparison.summary["test_set"]["num_utterances"] == 1
    assert comparison.summary["test_set"]["num_left_out"] == 2
    assert comparison.utterances["utterance_id"].to_pylist() == ["a"]


def test_one_recording_says_nothing_of_probability():
    texts = {"a": ("שלום לך", "שלום"), "b": ("שלום לך", "שלום לך")}
    better = texts | {"a": ("שלום לך", "שלום לך")}
    recordings = {"a": "r", "b": "r"}
    (pair,) = compare([evaluated(each, recordings=recordings) for each in (texts, better)], ["a", "b"]).summary["pairs"]
    assert pair["probability_better"] is None
    assert pair["wer_difference_interval"] is None
    assert pair["p_value"] == 1


def test_other_references_other_utterances_and_other_normalizers_are_not_compared():
    one = evaluated({"a": ("שלום", "שלום")})
    with pytest.raises(ResultsError, match="a has another reference in two than in one: 'להתראות', 'שלום'"):
        compare([one, evaluated({"a": ("להתראות", "שלום")})], ["one", "two"])
    with pytest.raises(ResultsError, match="no scored utterance in common"):
        compare([one, evaluated({"b": ("שלום", "שלום")})], ["one", "two"])
    with pytest.raises(ResultsError, match="two by another"):
        compare([one, evaluated({"a": ("שלום", "שלום")}, normalizer="another")], ["one", "two"])
    with pytest.raises(RequestError, match="a name of its own"):
        compare([one, one], ["one", "one"])
    with pytest.raises(RequestError, match="at least two"):
        compare([one], ["one"])


def test_both_files_are_written(tmp_path: Path):
    comparison = compare([evaluated(answers(0.2, seed=1)), evaluated(answers(0.1, seed=2))], ["a", "b"])
    comparison.write(tmp_path / "out")
    assert json.loads((tmp_path / "out" / "comparison.json").read_text()) == comparison.summary
    assert pq.read_table(tmp_path / "out" / "comparison.parquet").equals(comparison.utterances)


@pytest.mark.parametrize("num_recordings", [12, 100])
def test_the_interval_of_a_difference_holds_the_truth_in_95_of_100_test_sets(num_recordings: int):
    random = np.random.default_rng(7)
    truth, inside = 0.02, 0
    for _ in range(400):
        words = random.integers(20, 200, num_recordings)
        hardness = random.normal(0, 0.05, num_recordings)  # of the recording, for one of the two more than the other
        differences = np.round(words * (truth + hardness)).astype(np.int64)
        low, high = difference_interval(differences, words) or (1, 0)
        inside += low <= truth <= high
    assert inside / 400 == pytest.approx(0.95, abs=0.025)


def test_a_difference_may_be_below_0_and_a_rate_not():
    errors, words = np.array([-3, 1, 0, 0]), np.array([10, 10, 10, 10])
    assert (difference_interval(errors, words) or (0, 0))[0] < -0.05
    assert (interval(np.array([0, 1, 0, 0]), words) or (1, 1))[0] == 0
