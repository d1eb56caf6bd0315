"""Samples to the bytes of a file, in the codecs and sample rates that collections mix. Same samples, same bytes."""

import random
import struct
import zlib
from dataclasses import dataclass

import numpy as np
import soxr

from caspi.audio import memory_file

_SUBTYPES = {"mp3": "MPEG_LAYER_III", "ogg": "OPUS", "flac": "PCM_16", "wav": "PCM_16"}
_SAMPLE_RATES = (8000, 16000, 22050, 24000, 44100, 48000)
_OPUS_SAMPLE_RATES = (8000, 16000, 24000, 48000)  # the codec knows no others


@dataclass(frozen=True, slots=True)
class Encoding:
    """How a recording is stored."""

    extension: str
    """`mp3`, `ogg` (Opus), `flac` or `wav`."""

    sample_rate: int
    num_channels: int


RECITAL_ENCODING = Encoding("mp3", 16000, 1)  # what ivrit.ai's dataset writer stores


# What a web server says instead of sending a recording, and what careless collections store as audio.
GARBAGE = b"<!DOCTYPE html><html><title>403 Forbidden</title><p>Access to this recording has expired.</p></html>"


def draw(rng: random.Random) -> Encoding:
    """A codec, a sample rate that it allows, mono or stereo."""
    # Opus and MP3 take ten times longer to encode than the others.
    extension = rng.choices(("mp3", "ogg", "flac", "wav"), (4, 2, 4, 2))[0]
    sample_rates = _OPUS_SAMPLE_RATES if extension == "ogg" else _SAMPLE_RATES
    # Telephone quality loses the difference between s and sh, so it stays the exception.
    weights = [1 if sample_rate == 8000 else 3 for sample_rate in sample_rates]
    return Encoding(extension, rng.choices(sample_rates, weights)[0], rng.choices((1, 2), (3, 1))[0])


def encode(samples: np.ndarray, sample_rate: int, encoding: Encoding) -> bytes:
    """Resample mono float samples and write them as a file in memory.

    The second channel of a stereo file is 3 dB quieter than the first, so that averaging and dropping differ.
    """
    if sample_rate != encoding.sample_rate and samples.size:
        samples = soxr.resample(samples, sample_rate, encoding.sample_rate)
    samples = np.clip(samples, -1.0, 1.0).astype(np.float32)
    if encoding.num_channels == 2:
        samples = np.stack([samples, samples * 10 ** (-3 / 20)], axis=1)  # (num_samples,) -> (num_samples, 2)
    extension = encoding.extension
    encoded = memory_file.written(samples, encoding.sample_rate, format=extension.upper(), subtype=_SUBTYPES[extension])
    return fix_ogg_serial(encoded) if encoding.extension == "ogg" else encoded


def fix_ogg_serial(encoded: bytes, serial: int = 1) -> bytes:
    """The same Ogg stream with a serial number of ours on every page: libsndfile draws a random one for each file."""
    stream = bytearray(encoded)
    position = 0
    while position < len(stream):
        # RFC 3533: "OggS", version, flags, granule position (8), serial (4), page number (4), CRC (4), number of
        # segments, their lengths
        assert stream[position : position + 4] == b"OggS", "libsndfile wrote a page that is not Ogg"
        num_segments = stream[position + 26]
        table = stream[position + 27 : position + 27 + num_segments]
        end = position + 27 + num_segments + sum(table)
        struct.pack_into("<I", stream, position + 14, serial)
        struct.pack_into("<I", stream, position + 22, 0)
        struct.pack_into("<I", stream, position + 22, _ogg_crc(stream[position:end]))
        position = end
    return bytes(stream)


_BIT_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def _ogg_crc(page: bytes | bytearray) -> int:
    """Ogg's CRC-32: polynomial 0x04c11db7, most significant bit first, starting from 0.

    zlib computes the same polynomial with all bits mirrored and inverted, and in C: mirror the input, undo its start
    value (`^ 0xFFFFFFFF` before and after), mirror the result.
    """
    mirrored = zlib.crc32(bytes(page).translate(_BIT_REVERSED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int(f"{mirrored:032b}"[::-1], 2)
