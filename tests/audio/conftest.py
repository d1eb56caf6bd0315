"""Sound made in the test."""

import io
from collections.abc import Callable

import numpy as np
import pytest
import soundfile

FORMATS = {
    "wav": ("WAV", "PCM_16"),
    "wav24": ("WAV", "PCM_24"),
    "wav8": ("WAV", "PCM_U8"),
    "float": ("WAV", "FLOAT"),
    "mulaw": ("WAV", "ULAW"),
    "flac": ("FLAC", "PCM_16"),
    "mp3": ("MP3", "MPEG_LAYER_III"),
    "vorbis": ("OGG", "VORBIS"),
    "opus": ("OGG", "OPUS"),
}


def sine(duration_s: float, sample_rate: int, *, frequency: float = 440.0, level: float = 0.5) -> np.ndarray:
    time = np.arange(round(duration_s * sample_rate)) / sample_rate
    return (level * np.sin(2 * np.pi * frequency * time)).astype(np.float32)


@pytest.fixture
def encode() -> Callable[..., bytes]:
    """Samples, (T,) or (T, C), to bytes in one of FORMATS."""

    def encode(samples: np.ndarray, sample_rate: int, name: str = "wav") -> bytes:
        encoded = io.BytesIO()
        container, subtype = FORMATS[name]
        soundfile.write(encoded, samples, sample_rate, format=container, subtype=subtype)
        return encoded.getvalue()

    return encode
