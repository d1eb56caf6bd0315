import time

import numpy as np
import pytest

from caspi.audio.measures import SILENCE_DBFS, measure


def voice(duration_s: float = 20.0, level: float = 0.05) -> tuple[np.ndarray, np.ndarray]:
    """Syllables of 24 harmonics with a pause every two seconds, and where it sounds."""
    time_s = np.arange(int(duration_s * 16000)) / 16000
    pitch = 2 * np.pi * np.cumsum(140 + 40 * np.sin(2 * np.pi * 0.7 * time_s)) / 16000
    sound = sum(np.sin(number * pitch) / number for number in range(1, 25))
    is_spoken = np.sin(2 * np.pi * 0.5 * time_s) > -0.4
    syllables = is_spoken * (0.3 + 0.7 * np.abs(np.sin(2 * np.pi * 2.1 * time_s)))
    return (level * sound * syllables).astype(np.float32), is_spoken


@pytest.mark.parametrize("snr_db", [0, 5, 10, 20, 30, 40])
@pytest.mark.parametrize("level", [0.005, 0.05])
def test_snr_is_found_within_3_db(snr_db, level):
    sound, is_spoken = voice(level=level)
    power = np.mean(sound[is_spoken] ** 2)
    noise = np.random.default_rng(0).normal(size=len(sound)) * np.sqrt(power / 10 ** (snr_db / 10))
    assert measure((sound + noise).astype(np.float32)).snr_db == pytest.approx(snr_db, abs=3)


def test_snr_falls_with_every_bit_of_noise():
    sound, _ = voice()
    noise = np.random.default_rng(0).normal(size=len(sound))
    found = [measure((sound + level * noise).astype(np.float32)).snr_db for level in np.geomspace(1e-5, 0.3, 20)]
    assert found == sorted(found, reverse=True)


def test_pauses_do_not_change_the_snr():
    sound, _ = voice(4.0)
    noise = 0.001 * np.random.default_rng(0).normal(size=16000 * 30)
    sparse = noise.copy()
    sparse[16000 * 12 : 16000 * 16] += sound
    dense = noise[: len(sound)] + sound
    assert measure(sparse.astype("f4")).snr_db == pytest.approx(measure(dense.astype("f4")).snr_db, abs=2)


def test_noise_alone_has_no_signal():
    assert measure(np.random.default_rng(0).normal(size=80000).astype(np.float32) * 0.1).snr_db < 0


@pytest.mark.parametrize("duration_s", [0.0, 0.1, 0.29])
def test_of_a_short_clip_nobody_can_tell_the_snr(duration_s):
    assert measure(voice()[0][: int(duration_s * 16000)]).snr_db is None


def test_of_digital_silence_in_the_pauses_nobody_can_tell_the_snr():
    assert measure(voice()[0]).snr_db is None


def test_snr_has_a_cap():
    sound, _ = voice()
    assert measure(sound + np.float32(1e-9)).snr_db == 80


def test_silence():
    silent = measure(np.zeros(16000, np.float32))
    assert (silent.level_dbfs, silent.peak, silent.clipped_share, silent.snr_db) == (SILENCE_DBFS, 0, 0, None)
    assert measure(np.zeros(0, np.float32)) == silent


@pytest.mark.parametrize(("level", "dbfs"), [(1.0, 0.0), (0.1, -20.0), (0.001, -60.0)])
@pytest.mark.parametrize("num_samples", [16000, 16001, 333])
def test_level_is_the_rms_of_the_whole(level, dbfs, num_samples):
    measured = measure(np.full(num_samples, -level, np.float32))
    assert measured.level_dbfs == pytest.approx(dbfs, abs=0.01)
    assert measured.peak == pytest.approx(level)


def test_clipping_counts_both_sides_and_overshoot():
    samples = np.zeros(1000, np.float32)
    samples[:10], samples[10:15], samples[15:20], samples[20:30] = 1.0, -1.0, 1.3, 0.99
    assert measure(samples).clipped_share == pytest.approx(0.02)
    assert measure(samples * 0.5).clipped_share == 0


def test_an_hour_takes_well_under_a_second():
    sound = np.tile(voice()[0], 180)
    times = []
    for _ in range(3):
        start = time.perf_counter()
        measure(sound)
        times.append(time.perf_counter() - start)
    assert min(times) < 0.7  # 5,000 times real time; 100,000 on the machine it was written on
