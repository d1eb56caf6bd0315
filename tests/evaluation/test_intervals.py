"""How sure a rate is."""

from collections.abc import Callable

import numpy as np
import pytest

from caspi.evaluation import score
from caspi.evaluation.intervals import describe, difference_interval, interval

World = Callable[[np.random.Generator], tuple[np.ndarray, np.ndarray, list[int] | None]]
"""Makes a test set: errors and lengths of utterances, and which recording each is of."""


def test_the_interval_is_the_same_each_time_and_contains_the_rate():
    generator = np.random.default_rng(1)
    references = ["א ב ג ד ה"] * 200
    hypotheses = ["א ב ג ד " + ("ה" if generator.random() < 0.5 else "ו") for _ in references]
    first, second = score(references, hypotheses), score(references, hypotheses)
    assert first == second
    assert first.wer_interval is not None
    low, high = first.wer_interval
    assert low < first.wer < high
    assert high - low == pytest.approx(4 * 0.1 / 200**0.5, rel=0.2)  # per utterance 0 or 0.2: deviation 0.1


def test_utterances_that_err_together_widen_the_interval():
    errors = np.array([(position // 20) % 2 for position in range(400)])
    alone = interval(errors, np.ones_like(errors))
    together = interval(errors, np.ones_like(errors), clusters=[position // 20 for position in range(400)])
    assert alone is not None and together is not None
    assert together[1] - together[0] > 3 * (alone[1] - alone[0])


def test_one_recording_says_nothing_of_the_spread():
    result = score(["א ב", "ג"], ["א", "ג"], clusters=["only", "only"])
    assert (result.wer_interval, result.cer_interval) == (None, None)
    assert score(["א ב"], ["א ב"]).wer_interval is None, "nor does one without an error"
    assert difference_interval(np.array([1]), np.array([1000])) is None


def test_recordings_of_one_rate_say_nothing_of_the_spread_either():
    assert interval(np.array([1, 2, 3]), np.array([10, 20, 30])) is None
    assert difference_interval(np.array([-1, -1]), np.array([10, 10])) is None
    assert interval(np.array([1, 1]), np.zeros(2, np.int64)) is None


def test_a_recording_beside_silence_is_one_recording():
    assert interval(np.array([5, 1, 0]), np.array([100, 0, 0])) is None


@pytest.mark.parametrize(("num_recordings", "high"), [(2, 0.78), (20, 0.14), (300, 0.01)])
def test_without_an_error_the_interval_ends_where_the_rule_of_three_has_it(num_recordings: int, high: float):
    found = interval(np.zeros(num_recordings, np.int64), np.full(num_recordings, 50))
    assert found == (0, pytest.approx(high, abs=0.005))


def test_a_system_is_not_apart_from_itself():
    assert difference_interval(np.zeros(5, np.int64), np.full(5, 50)) == (0, 0)


def alike(num_recordings: int, utterances_each: int) -> World:
    """Recordings that have an error rate of their own, 10% on average."""

    def make(generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray, list[int] | None]:
        recordings = np.repeat(np.arange(num_recordings), utterances_each)
        lengths = generator.integers(1, 20, len(recordings))
        rates = generator.beta(2, 18, num_recordings)[recordings]
        return generator.binomial(lengths, rates), lengths, recordings.tolist()

    return make


def unequal(num_recordings: int, spread: float) -> World:
    """The same with recordings of very different lengths: by 7 times in the middle two thirds, with a spread of 1."""

    def make(generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray, list[int] | None]:
        lengths = np.maximum(1, np.round(50 * generator.lognormal(0, spread, num_recordings))).astype(np.int64)
        return generator.binomial(lengths, generator.beta(2, 18, num_recordings)), lengths, None

    return make


def with_loops(num_recordings: int, share: float) -> World:
    """Utterances with 10% of errors, of which a few are answered with a loop of 200 words."""

    def make(generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray, list[int] | None]:
        lengths = generator.integers(3, 20, num_recordings)
        loops = 200 * (generator.random(num_recordings) < share)
        return generator.binomial(lengths, 0.1) + loops, lengths, None

    return make


def coverage(world: World, truth: float, *, num_sets: int = 1000) -> float:
    """The share of test sets from one world whose interval holds the truth."""
    generator = np.random.default_rng(7)
    found = []
    for _ in range(num_sets):
        errors, lengths, clusters = world(generator)
        bounds = interval(errors, lengths, clusters=clusters)
        found.append(bounds is not None and bounds[0] <= truth <= bounds[1])
    return float(np.mean(found))


@pytest.mark.parametrize(
    ("num_recordings", "utterances_each"), [(80, 1), (20, 1), (60, 10), (12, 20), (10, 20), (2, 50)]
)
def test_the_interval_contains_the_truth_as_often_as_it_says(num_recordings: int, utterances_each: int):
    assert 0.93 <= coverage(alike(num_recordings, utterances_each), 0.1) <= 0.97


@pytest.mark.parametrize(("num_recordings", "spread"), [(17, 1.0), (17, 1.5), (54, 1.0)])
def test_recordings_of_very_different_lengths_are_covered_too(num_recordings: int, spread: float):
    assert 0.93 <= coverage(unequal(num_recordings, spread), 0.1) <= 0.97


def test_what_happened_in_two_recordings_may_be_missed():
    """No interval knows of loops that are in none of a test set's utterances: of 13% of these sets, where 2 are due."""
    truth = 0.1 + 0.01 * 200 / 11
    assert 0.80 <= coverage(with_loops(200, 0.01), truth, num_sets=400) <= 0.88
    truth = 0.1 + 0.03 * 200 / 11
    assert coverage(with_loops(200, 0.03), truth, num_sets=400) >= 0.93


def test_the_percentiles_of_few_recordings_would_be_too_narrow():
    """Why the interval is not the usual one: the ends of the middle 95% of replicates."""
    generator = np.random.default_rng(7)
    recordings, num_covered = np.repeat(np.arange(8), 20), 0
    for _ in range(400):
        lengths = generator.integers(1, 20, len(recordings))
        errors = generator.binomial(lengths, generator.beta(2, 18, 8)[recordings])
        drawn = generator.multinomial(8, np.full(8, 1 / 8), 500)
        rates = (drawn @ np.bincount(recordings, errors)) / (drawn @ np.bincount(recordings, lengths))
        low, high = np.quantile(rates, (0.025, 0.975))
        num_covered += low <= 0.1 <= high
    assert num_covered / 400 < 0.92


def test_few_recordings_of_which_one_errs_give_a_bounded_interval_that_starts_at_nothing():
    low, high = interval(np.array([0, 0, 3]), np.array([10, 10, 10])) or (1, 1)
    assert (low, round(high, 1)) == (0.0, 0.6)


def test_the_interval_of_invented_words_needs_no_reference_word():
    low, high = interval(np.array([0, 1, 2, 1]), np.zeros(4, np.int64)) or (0, 0)
    assert low < 4 < high


def test_an_interval_is_said_in_words():
    assert describe((0.0123, 0.2)) == "95% interval 1.2% to 20.0%"
    assert describe([0.0123, 0.2], digits=2) == "95% interval 1.23% to 20.00%"
    assert describe(None) == "how sure is not known"
