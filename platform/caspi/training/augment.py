"""Changes to training audio, drawn from the random numbers of each utterance, so that a resumed run repeats them."""

import numpy as np
import soxr

from caspi.audio import SAMPLE_RATE
from caspi.model.audio_tokens import num_frames
from caspi.model.features import NUM_MEL_BINS
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


def draw_masks(num_samples: int, settings: Augmentation, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """What SpecAugment (arXiv 1904.08779) hides of a clip.

    Returns:
        Bands, (frequency_masks, 2): first and end mel bin. Spans, (time_masks, 2): first and end frame. Both int64.
    """
    frames = num_frames(num_samples)
    longest = int(settings.time_mask_share * frames)
    bands = [_draw_range(settings.frequency_mask_bins, NUM_MEL_BINS, random) for _ in range(settings.frequency_masks)]
    spans = [_draw_range(longest, frames, random) for _ in range(settings.time_masks)]
    return np.array(bands, np.int64).reshape(-1, 2), np.array(spans, np.int64).reshape(-1, 2)


def _draw_range(longest: int, size: int, random: np.random.Generator) -> tuple[int, int]:
    """The first and the end of a range somewhere in `size` places."""
    width = int(random.integers(0, longest + 1))
    start = int(random.integers(0, size - width + 1))
    return start, start + width
