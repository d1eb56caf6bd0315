"""Changes to training audio, drawn from the random numbers of each utterance, so that a resumed run repeats them."""

import numpy as np
import soxr

from caspi.audio import SAMPLE_RATE
from caspi.model.audio_tokens import num_frames
from caspi.model.features import Features
from caspi.recipe.sections import Augmentation


def augment_samples(samples: np.ndarray, settings: Augmentation, random: np.random.Generator) -> np.ndarray:
    """Speed, shift, level and noise, in that order. (num_samples,) float32 in and out."""
    if settings.speed:
        # Steps of 1%: rational ratios keep the resampler's filter small.
        factor = 1 + settings.speed * round(random.uniform(-100, 100)) / 100
        samples = soxr.resample(samples, SAMPLE_RATE * factor, SAMPLE_RATE, quality="HQ")
    if settings.max_shift_s:
        samples = np.pad(samples, (int(random.uniform(0, settings.max_shift_s) * SAMPLE_RATE), 0))
    if settings.gain_db:
        samples = samples * 10 ** (random.uniform(-settings.gain_db, settings.gain_db) / 20)
    if settings.noise_db is not None and random.random() < 0.5:
        level = np.sqrt(np.mean(np.square(samples)) + 1e-12)
        ratio_db = settings.noise_db + random.uniform(0, 30)
        samples = samples + random.standard_normal(len(samples)) * level * 10 ** (-ratio_db / 20)
    return np.clip(samples, -1, 1).astype(np.float32)


def mask_features(
    features: Features, num_samples: list[int], settings: Augmentation, randoms: list[np.random.Generator]
) -> None:
    """SpecAugment (arXiv 1904.08779) in place: bands and spans set to zero, the middle of the features' range."""
    for values, length, random in zip(features.values, num_samples, randoms, strict=True):  # values: (M, T)
        frames = num_frames(length)
        for _ in range(settings.frequency_masks):
            width = int(random.integers(0, settings.frequency_mask_bins + 1))
            start = int(random.integers(0, values.shape[0] - width + 1))
            values[start : start + width] = 0.0
        for _ in range(settings.time_masks):
            width = int(random.integers(0, int(settings.time_mask_share * frames) + 1))
            start = int(random.integers(0, frames - width + 1))
            values[:, start : start + width] = 0.0
