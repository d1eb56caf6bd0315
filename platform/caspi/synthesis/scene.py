"""Speech in its surroundings: where each sentence begins, how loud it is, what hums behind it."""

from collections.abc import Sequence

import numpy as np

from caspi.synthesis.espeak import SAMPLE_RATE, Speech


def place(speeches: Sequence[tuple[float, Speech]], duration_s: float) -> np.ndarray:
    """Silence of `duration_s` with each speech at its start, (num_samples,) float64 at SAMPLE_RATE.

    The loudest sample of each speech becomes 1: variants of eSpeak differ by 10 dB.
    """
    samples = np.zeros(round(duration_s * SAMPLE_RATE))
    for start_s, speech in speeches:
        start = round(start_s * SAMPLE_RATE)
        end = min(start + len(speech.samples), len(samples))
        samples[start:end] = speech.samples[: end - start] / np.abs(speech.samples.astype(np.int32)).max()
    return samples


def add_noise(samples: np.ndarray, snr_db: float, *, seed: int) -> np.ndarray:
    """Add steady noise, softer towards high frequencies, `snr_db` below the mean power of the samples."""
    if not samples.size:
        return samples
    white = np.random.default_rng(seed).standard_normal(len(samples) + 1)
    noise = white[1:] + 0.8 * white[:-1]
    power = np.mean(samples**2) / np.mean(noise**2)
    return samples + noise * np.sqrt(power) * 10 ** (-snr_db / 20)


def word_times(speech: Speech, start_s: float) -> list[tuple[float, float]]:
    """Start and end of each word in seconds, for speech that begins at `start_s`. eSpeak makes no pause between."""
    starts = [start_s + word_start_s for word_start_s in speech.word_starts_s]
    return list(zip(starts, [*starts[1:], start_s + len(speech.samples) / SAMPLE_RATE], strict=True))
