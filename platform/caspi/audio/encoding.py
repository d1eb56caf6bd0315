"""Samples to FLAC, the one format of our shards: lossless, half the size of WAV, cheap to read."""

import io

import numpy as np
import soundfile

from caspi.audio.decoding import SAMPLE_RATE


def encode_flac(samples: np.ndarray, sample_rate: int = SAMPLE_RATE) -> bytes:
    """Encode mono samples, (num_samples,) float in [-1, 1], as 16-bit FLAC. What lies outside is clipped.

    Samples that came from 16 bits return to the very same 16 bits.
    """
    assert samples.ndim == 1, f"expected mono samples, found shape {samples.shape}"
    assert np.isfinite(samples).all(), "decode() refuses NaN and infinity, so the caller made them"
    # Scaled here: libsndfile multiplies floats by 32767, and decoding and encoding would change every sample.
    integers = np.clip(np.rint(samples * 32768.0), -32768, 32767).astype(np.int16)
    encoded = io.BytesIO()
    soundfile.write(encoded, integers, sample_rate, format="FLAC", subtype="PCM_16")
    return encoded.getvalue()
