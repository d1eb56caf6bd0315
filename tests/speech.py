"""Speech whose place is known, made by eSpeak NG."""

from functools import cache

import numpy as np
import pytest
import soxr

from caspi.audio import SAMPLE_RATE, encode_flac


def speak(duration_s: float) -> np.ndarray:
    """(num_samples,) float32 in which somebody speaks from the first sample to the last, without a pause."""
    voice = _sentence()
    num_samples = round(duration_s * SAMPLE_RATE)
    return np.tile(voice, -(-num_samples // len(voice)))[:num_samples]


def lay(duration_s: float, *spans: tuple[float, float]) -> np.ndarray:
    """(num_samples,) float32 with speech at (start_s, end_s) and a quiet room around it."""
    room = np.random.default_rng(0).normal(size=round(duration_s * SAMPLE_RATE))
    laid = (0.0005 * room).astype(np.float32)
    for start_s, end_s in spans:
        voice = speak(end_s - start_s)
        start = round(start_s * SAMPLE_RATE)
        laid[start : start + len(voice)] += voice
    return laid


def spoken(duration_s: float) -> bytes:
    """A FLAC file of `speak`."""
    return encode_flac(speak(duration_s))


@cache
def _sentence() -> np.ndarray:
    pytest.importorskip("espeakng_loader")
    from caspi.synthesis import espeak
    from caspi.synthesis.vocabulary import WORDS
    from caspi.synthesis.voices import TRAIN_VOICES

    words = [word.phonemes for word in WORDS[:16]]
    voice = espeak.Engine().speak(words, TRAIN_VOICES[0]).samples.astype(np.float32)
    voice = soxr.resample(voice / np.abs(voice).max() / 2, espeak.SAMPLE_RATE, SAMPLE_RATE)
    loud = np.flatnonzero(np.abs(voice) > 0.01)
    return voice[loud[0] : loud[-1]]
