"""Reverberation: speech as it is heard in a room."""

import numpy as np
from scipy import signal

from caspi.audio import SAMPLE_RATE
from caspi.recipe.augmentation import Reverberation
from caspi.training.augmentation.noise import rms
from caspi.training.augmentation.recordings import open_recordings

# The first reflection comes so much later than the direct sound: 1 to 4 m of detour.
_FIRST_REFLECTION_S = (0.003, 0.012)


def reverberate(samples: np.ndarray, settings: Reverberation, random: np.random.Generator) -> np.ndarray:
    """The same speech, as loud and as long, in a room. What would sound on after the end is cut off."""
    if settings.rooms is None:
        response = make_response(random.uniform(*settings.rt60_s), random.uniform(*settings.direct_db), random)
    else:
        response = open_recordings(settings.rooms).draw(random)
        # From the direct sound on, the loudest: nothing is heard later than it was said.
        response = response[np.argmax(np.abs(response)) :]
    heard = signal.oaconvolve(samples, response)[: len(samples)]
    return heard * (rms(samples) / (rms(heard) or 1))


def make_response(rt60_s: float, direct_db: float, random: np.random.Generator) -> np.ndarray:
    """A room impulse response: the direct sound, then noise that falls by 60 dB in `rt60_s` (J.-D. Polack, 1988).

    High frequencies fall faster, since walls and air take more of them: above 2 kHz in half of the time.

    Args:
        direct_db: energy of the direct sound over that of all the rest.
    """
    num_samples = round(rt60_s * SAMPLE_RATE)
    time_s = np.arange(num_samples) / SAMPLE_RATE
    decay = 10 ** (-3 * time_s / rt60_s)
    low, high = (signal.sosfilt(sections, random.standard_normal(num_samples)) for sections in _CROSSOVER)
    tail = (low + high * decay) * decay
    tail[: round(random.uniform(*_FIRST_REFLECTION_S) * SAMPLE_RATE)] = 0
    energy = float(np.sum(tail**2))
    if energy:
        tail *= 10 ** (-direct_db / 20) / np.sqrt(energy)
    return np.concatenate([[1.0], tail])


_CROSSOVER = tuple(signal.butter(2, 2000, kind, fs=SAMPLE_RATE, output="sos") for kind in ("lowpass", "highpass"))
