"""Sound in which nobody speaks: what a model must learn to answer with nothing, and is asked about.

Every maker takes a number of samples at SAMPLE_RATE and gives (num_samples,) float64 of no particular level.
"""

import numpy as np

from caspi.audio.decoding import SAMPLE_RATE

_MAINS_HZ = (50.0, 60.0)


def silence(num_samples: int, random: np.random.Generator) -> np.ndarray:
    """Digital silence."""
    return np.zeros(num_samples)


def hum(num_samples: int, random: np.random.Generator) -> np.ndarray:
    """The mains and its harmonics."""
    time_s = np.arange(num_samples) / SAMPLE_RATE
    mains = 2 * np.pi * random.choice(_MAINS_HZ) * time_s
    strengths, phases = random.uniform(0, 1, 5), random.uniform(0, 2 * np.pi, 5)
    harmonics = zip(strengths, phases, strict=True)
    return sum(strength * np.sin(order * mains + phase) for order, (strength, phase) in enumerate(harmonics, 1))


def white(num_samples: int, random: np.random.Generator) -> np.ndarray:
    """White noise."""
    return random.standard_normal(num_samples)


def pink(num_samples: int, random: np.random.Generator) -> np.ndarray:
    """Power falls with frequency, as that of rooms and streets does."""
    spectrum = np.fft.rfft(random.standard_normal(num_samples))
    return np.fft.irfft(spectrum / np.sqrt(np.arange(1, len(spectrum) + 1)), num_samples)


def at_level(sound: np.ndarray, level_dbfs: float) -> np.ndarray:
    """The sound at an RMS level in dB under full scale, as (num_samples,) float32. Silence stays silence."""
    level = np.sqrt(np.mean(np.square(sound)))
    if level > 0:
        sound = sound * 10 ** (level_dbfs / 20) / level
    return np.clip(sound, -1, 1).astype(np.float32)
