"""Sound made in the test."""

import io
from collections.abc import Callable

import av
import numpy as np
import pytest
import soundfile

# By libsndfile: (container, subtype).
FORMATS = {
    "wav": ("WAV", "PCM_16"),
    "wav24": ("WAV", "PCM_24"),
    "wav32": ("WAV", "PCM_32"),
    "wav8": ("WAV", "PCM_U8"),
    "float": ("WAV", "FLOAT"),
    "double": ("WAV", "DOUBLE"),
    "mulaw": ("WAV", "ULAW"),
    "alaw": ("WAV", "ALAW"),
    "wavex": ("WAVEX", "PCM_16"),
    "rf64": ("RF64", "PCM_16"),
    "w64": ("W64", "PCM_16"),
    "aiff": ("AIFF", "PCM_16"),
    "au": ("AU", "PCM_16"),
    "caf": ("CAF", "PCM_16"),
    "sphere": ("NIST", "PCM_16"),
    "flac": ("FLAC", "PCM_16"),
    "flac24": ("FLAC", "PCM_24"),
    "mp3": ("MP3", "MPEG_LAYER_III"),
    "vorbis": ("OGG", "VORBIS"),
    "opus": ("OGG", "OPUS"),
}

# By FFmpeg: (container, codec).
FFMPEG_FORMATS = {
    "m4a": ("mp4", "aac"),
    "alac": ("mp4", "alac"),
    "mov": ("mov", "pcm_s16le"),
    "adts": ("adts", "aac"),
    "webm": ("webm", "libopus"),
    "webm-vorbis": ("webm", "libvorbis"),
    "mkv": ("matroska", "aac"),
    "ffmpeg-opus": ("ogg", "libopus"),
    "adpcm": ("wav", "adpcm_ima_wav"),
}

ANY_FORMAT = [*FORMATS, *(name for name, (_, codec) in FFMPEG_FORMATS.items() if codec in av.codecs_available)]


def sine(duration_s: float, sample_rate: int, *, frequency: float = 440.0, level: float = 0.5) -> np.ndarray:
    time = np.arange(round(duration_s * sample_rate)) / sample_rate
    return (level * np.sin(2 * np.pi * frequency * time)).astype(np.float32)


def encode_as(samples: np.ndarray, sample_rate: int, name: str = "wav") -> bytes:
    """Samples, (T,) or (T, C), to bytes in one of FORMATS or FFMPEG_FORMATS."""
    if name in FFMPEG_FORMATS:
        return _encode_by_ffmpeg(samples, sample_rate, *FFMPEG_FORMATS[name])
    encoded = io.BytesIO()
    container, subtype = FORMATS[name]
    soundfile.write(encoded, samples, sample_rate, format=container, subtype=subtype)
    return encoded.getvalue()


def _encode_by_ffmpeg(samples: np.ndarray, sample_rate: int, container: str, codec: str) -> bytes:
    channels = np.atleast_2d(samples.T)  # (C, T)
    layout = {1: "mono", 2: "stereo", 6: "5.1", 8: "7.1"}[len(channels)]
    encoded = io.BytesIO()
    with av.open(encoded, "w", format=container) as output:
        stream = output.add_stream(codec, rate=sample_rate, layout=layout)
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(channels, np.float32), format="fltp", layout=layout)
        frame.sample_rate = sample_rate
        frame.pts = 0
        output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return encoded.getvalue()


@pytest.fixture
def encode() -> Callable[..., bytes]:
    return encode_as
