"""Samples to FLAC, the one format of our shards: lossless, half the size of WAV, cheap to read.

To MP3 besides, for people who listen.
"""

import numpy as np

from caspi.audio import memory_file
from caspi.audio.decoding import SAMPLE_RATE

# "fLaC", the header of the first block, and STREAMINFO up to its last field (RFC 9639, section 8.2).
_MD5_AT = 4 + 4 + 18


def quantize(samples: np.ndarray) -> np.ndarray:
    """Float samples in [-1, 1] as int16. What lies outside is clipped; what came from 16 bits returns to them."""
    assert np.isfinite(samples).all(), "decode() refuses NaN and infinity, so the caller made them"
    # Scaled here: libsndfile multiplies floats by 32767, and decoding and encoding would change every sample.
    return np.clip(np.rint(samples * 32768.0), -32768, 32767).astype(np.int16)


def encode_flac(samples: np.ndarray, sample_rate: int = SAMPLE_RATE) -> bytes:
    """Encode mono samples, (num_samples,) int16, or float as `quantize` takes them, as 16-bit FLAC."""
    assert samples.ndim == 1, f"expected mono samples, found shape {samples.shape}"
    integers = samples if samples.dtype == np.int16 else quantize(samples)
    return memory_file.written(integers, sample_rate, format="FLAC", subtype="PCM_16")


def samples_md5(flac: bytes) -> bytes:
    """The MD5 of the samples, 16 bytes, that a FLAC file of ours carries in its header.

    It is that of the int16 samples, little-endian; the encoder computed it anyway.
    """
    return flac[_MD5_AT : _MD5_AT + 16]


def encode_mp3(samples: np.ndarray, sample_rate: int = SAMPLE_RATE) -> bytes:
    """Encode mono samples, (num_samples,) float in [-1, 1], as an MP3 that every browser plays.

    For listening only, a tenth of WAV's size: what a model hears is never lossy. What lies outside is clipped.
    """
    assert samples.ndim == 1, f"expected mono samples, found shape {samples.shape}"
    return memory_file.written(
        np.clip(samples, -1, 1),
        sample_rate,
        format="MP3",
        subtype="MPEG_LAYER_III",
        bitrate_mode="VARIABLE",
        compression_level=0.5,
    )
