"""Chance, weighed."""

import numpy as np
import pytest

from caspi.evaluation.resampling import holm, p_values, probability_lower


def test_the_p_value_is_that_of_all_ways_to_swap_the_two():
    # Of the 8 ways to give three recordings' differences a sign, 2 are as far from 0 as all of one sign.
    assert p_values(np.array([[1.0], [1.0], [2.0]]))[0] == pytest.approx(2 / 8, abs=0.02)
    assert p_values(np.array([[0.0], [0.0]]))[0] == 1


@pytest.mark.parametrize("num_recordings", [10, 60])
def test_without_a_difference_one_in_twenty_is_taken_for_one(num_recordings: int):
    """Each column is a test set of its own: recordings of different lengths, errors of either system alike."""
    random = np.random.default_rng(5)
    scale = random.lognormal(0, 1, (num_recordings, 2000))
    sums = np.round(10 * scale * random.normal(size=(num_recordings, 2000)))
    assert np.mean(p_values(sums) < 0.05) == pytest.approx(0.05, abs=0.015)


def test_probabilities_are_spread_evenly_where_there_is_no_difference():
    sums = np.round(100 * np.random.default_rng(6).normal(size=(50, 2000)))
    probabilities = probability_lower(sums)
    assert probabilities is not None
    assert np.mean(probabilities < 0.25) == pytest.approx(0.25, abs=0.04)
    assert np.mean(probabilities > 0.975) == pytest.approx(0.025, abs=0.015)


def test_a_share_of_draws_counts_ties_half_and_one_recording_says_nothing():
    # Of two recordings both draws are the first, the second, or one of each: sums of -2, 2 and 0.
    probability = probability_lower(np.array([[-1.0], [1.0]]))
    assert probability is not None
    assert probability[0] == pytest.approx(0.25 + 0.25, abs=0.02)
    assert probability_lower(np.array([[-1.0]])) is None


def test_holm_multiplies_by_how_many_are_left_and_never_falls():
    assert holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])
    assert holm([0.9, 0.8]) == [1, 1]
    assert holm([]) == []
