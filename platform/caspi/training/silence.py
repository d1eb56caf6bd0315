"""Clips without speech, made up: the model learns to answer them with nothing rather than with a likely sentence.

A clip is a function of seed, epoch and its number. The plan asks only how long it is.
"""

import numpy as np

from caspi.audio import SAMPLE_RATE
from caspi.training.augmentation.noise import pink, white
from caspi.training.draws import draw

MIN_S, MAX_S = 0.5, 10.0
MEAN_S = (MIN_S + MAX_S) / 2

_LEVEL_DBFS = (-70.0, -25.0)  # from a quiet room to a street
_MAINS_HZ = (50.0, 60.0)


def silence_s(numbers: np.ndarray, *, seed: int, epoch: int) -> np.ndarray:
    """Seconds of these clips, (len(numbers),) float64."""
    lengths = [_num_samples(_random(seed, epoch, int(number))) for number in numbers]
    return np.array(lengths, np.float64) / SAMPLE_RATE


def make_silence(number: int, *, seed: int, epoch: int) -> np.ndarray:
    """Digital silence, mains hum, white or pink noise: (num_samples,) float32."""
    random = _random(seed, epoch, number)
    num_samples = _num_samples(random)
    make = (_nothing, _hum, white, pink)[random.integers(4)]
    sound = make(num_samples, random)
    level = np.sqrt(np.mean(np.square(sound)))
    if level > 0:
        sound = sound * 10 ** (random.uniform(*_LEVEL_DBFS) / 20) / level
    return np.clip(sound, -1, 1).astype(np.float32)


def _random(seed: int, epoch: int, number: int) -> np.random.Generator:
    return draw(seed, epoch, "silence", number)


def _num_samples(random: np.random.Generator) -> int:
    return round(random.uniform(MIN_S, MAX_S) * SAMPLE_RATE)


def _nothing(num_samples: int, random: np.random.Generator) -> np.ndarray:
    return np.zeros(num_samples)


def _hum(num_samples: int, random: np.random.Generator) -> np.ndarray:
    time_s = np.arange(num_samples) / SAMPLE_RATE
    mains = 2 * np.pi * random.choice(_MAINS_HZ) * time_s
    strengths, phases = random.uniform(0, 1, 5), random.uniform(0, 2 * np.pi, 5)
    harmonics = zip(strengths, phases, strict=True)
    return sum(strength * np.sin(order * mains + phase) for order, (strength, phase) in enumerate(harmonics, 1))
