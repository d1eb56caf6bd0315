"""Clips without speech, made up: the model learns to answer them with nothing rather than with a likely sentence.

A clip is a function of seed, epoch and its number. The plan asks only how long it is.
"""

import numpy as np

from caspi.audio import SAMPLE_RATE, nonspeech
from caspi.training.draws import draw

MIN_S, MAX_S = 0.5, 10.0
MEAN_S = (MIN_S + MAX_S) / 2

_LEVEL_DBFS = (-70.0, -25.0)  # from a quiet room to a street


def silence_s(numbers: np.ndarray, *, seed: int, epoch: int) -> np.ndarray:
    """Seconds of these clips, (len(numbers),) float64."""
    lengths = [_num_samples(_random(seed, epoch, int(number))) for number in numbers]
    return np.array(lengths, np.float64) / SAMPLE_RATE


def make_silence(number: int, *, seed: int, epoch: int) -> np.ndarray:
    """Digital silence, mains hum, white or pink noise: (num_samples,) float32."""
    random = _random(seed, epoch, number)
    num_samples = _num_samples(random)
    make = (nonspeech.silence, nonspeech.hum, nonspeech.white, nonspeech.pink)[random.integers(4)]
    return nonspeech.at_level(make(num_samples, random), random.uniform(*_LEVEL_DBFS))


def _random(seed: int, epoch: int, number: int) -> np.random.Generator:
    return draw(seed, epoch, "silence", number)


def _num_samples(random: np.random.Generator) -> int:
    return round(random.uniform(MIN_S, MAX_S) * SAMPLE_RATE)
