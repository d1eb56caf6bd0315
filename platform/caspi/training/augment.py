"""Changes to training audio, drawn from the random numbers of each utterance, so that a resumed run repeats them."""

import numpy as np
import soxr

from caspi.audio import SAMPLE_RATE
from caspi.model.audio_tokens import num_frames
from caspi.model.features import NUM_MEL_BINS
from caspi.recipe.augmentation import Augmentation
from caspi.training.augmentation.channel import code, limit_band
from caspi.training.augmentation.noise import Speech, add_noise
from caspi.training.augmentation.recordings import open_recordings
from caspi.training.augmentation.room import reverberate


def augment_samples(
    samples: np.ndarray, settings: Augmentation, random: np.random.Generator, other_speech: Speech
) -> np.ndarray:
    """Along the way of the sound: the talker's speed, the room, its noise, the microphone's level, the line, the codec.

    Only speed and shift change the length, as `caspi.training.margin` knows. (num_samples,) float32 in and out.

    Args:
        other_speech: where babble takes its talkers from.
    """

    def is_drawn(share: float) -> bool:
        return share > 0 and random.random() < share

    if settings.speed and is_drawn(settings.speed_share):
        # Steps of 1%: rational ratios keep the resampler's filter small.
        factor = 1 + settings.speed * round(random.uniform(-100, 100)) / 100
        samples = soxr.resample(samples, SAMPLE_RATE * factor, SAMPLE_RATE, quality="HQ")
    if settings.max_shift_s:
        samples = np.pad(samples, (int(random.uniform(0, settings.max_shift_s) * SAMPLE_RATE), 0))
    if is_drawn(settings.reverberation.share):
        samples = reverberate(samples, settings.reverberation, random)
    if is_drawn(settings.noise.share):
        samples = add_noise(samples, settings.noise, random, other_speech)
    if settings.gain_db and is_drawn(settings.gain_share):
        samples = samples * 10 ** (random.uniform(-settings.gain_db, settings.gain_db) / 20)
    if is_drawn(settings.band_limit.share):
        samples = limit_band(samples, settings.band_limit, random)
    if is_drawn(settings.codec.share):
        samples = code(samples, settings.codec, random)
    return np.clip(samples, -1, 1).astype(np.float32)


def check_recordings(settings: Augmentation) -> None:
    """Find the folders that a recipe names, before a run starts.

    Raises:
        SourceError: one is not there, or holds no audio.
    """
    for folder in (settings.noise.recordings, settings.reverberation.rooms):
        if folder is not None:
            open_recordings(folder)


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
