"""Clips without speech: repeatable, of many kinds, and as long as the plan believes."""

import numpy as np
import pytest

from caspi.training.silence import MAX_S, MIN_S, make_silence, silence_s


def test_a_clip_is_a_function_of_seed_epoch_and_number():
    one, same = (make_silence(7, seed=1, epoch=2) for _ in range(2))
    np.testing.assert_array_equal(one, same)


@pytest.mark.parametrize("other", [{"seed": 9, "epoch": 2, "number": 7}, {"seed": 1, "epoch": 3, "number": 7}])
def test_another_seed_or_epoch_gives_another_clip(other):
    one, another = make_silence(7, seed=1, epoch=2), make_silence(**other)
    assert len(one) != len(another) or not np.array_equal(one, another)


def test_clips_are_as_long_as_announced():
    numbers = np.arange(50)
    lengths = [len(make_silence(number, seed=1, epoch=2)) / 16000 for number in numbers.tolist()]
    np.testing.assert_array_equal(silence_s(numbers, seed=1, epoch=2), lengths)
    assert MIN_S <= min(lengths) < 2 < 8 < max(lengths) <= MAX_S


def test_some_are_digital_silence_and_the_others_of_many_levels():
    clips = [make_silence(number, seed=1, epoch=2) for number in range(100)]
    levels_dbfs = [20 * np.log10(np.sqrt(np.mean(clip**2))) for clip in clips if clip.any()]
    assert 10 < sum(not clip.any() for clip in clips) < 45
    assert -71 < min(levels_dbfs) < -60 < -35 < max(levels_dbfs) < -24
    assert all(clip.dtype == np.float32 for clip in clips)


def test_hum_pink_and_white_noise_differ_in_their_spectra():
    """The share of power below 400 Hz: all, much, or a twentieth."""
    shares = []
    for number in range(60):
        clip = make_silence(number, seed=1, epoch=2)
        power = np.abs(np.fft.rfft(clip)) ** 2
        if clip.any():
            shares.append(power[: len(power) // 20].sum() / power.sum())
    assert sum(share > 0.99 for share in shares) > 3
    assert sum(0.3 < share < 0.9 for share in shares) > 3
    assert sum(share < 0.1 for share in shares) > 3
