"""Noise over speech: made up, of other utterances, or recorded."""

from collections.abc import Callable

import numpy as np

from caspi.audio.nonspeech import pink, white
from caspi.recipe.augmentation import Noise
from caspi.training.augmentation.recordings import open_recordings

Speech = Callable[[np.random.Generator], np.ndarray]
"""Draws an utterance of the corpus, (num_samples,) float32."""

_TALKERS = (3, 7)


def add_noise(samples: np.ndarray, settings: Noise, random: np.random.Generator, other_speech: Speech) -> np.ndarray:
    """Noise of one kind over all samples. Silence gets noise as if it were at -120 dBFS: next to none."""
    kind = random.choice(settings.kinds)
    if kind == "babble":
        noise = _babble(len(samples), random, other_speech)
    elif kind == "recorded":
        assert settings.recordings is not None, "the recipe names a folder with this kind"
        noise = _excerpt(open_recordings(settings.recordings).draw(random), len(samples), random)
    else:
        noise = (white if kind == "white" else pink)(len(samples), random)
    loudness = rms(noise)
    if loudness == 0:  # a recording of nothing
        return samples
    ratio = 10 ** (-random.uniform(*settings.snr_db) / 20)
    return samples + noise * (max(rms(samples), 1e-6) * ratio / loudness)


def rms(samples: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(samples), dtype=np.float64)))


def _babble(num_samples: int, random: np.random.Generator, other_speech: Speech) -> np.ndarray:
    """Several people at once, equally loud."""
    mixed = np.zeros(num_samples)
    for _ in range(int(random.integers(_TALKERS[0], _TALKERS[1] + 1))):
        talker = _excerpt(other_speech(random), num_samples, random)
        mixed += talker / (rms(talker) or 1)
    return mixed


def _excerpt(samples: np.ndarray, num_samples: int, random: np.random.Generator) -> np.ndarray:
    """So many samples from anywhere; what is too short goes round."""
    start = int(random.integers(len(samples)))
    return np.take(samples, np.arange(start, start + num_samples), mode="wrap")
