"""Decoding by libsndfile: the fastest reader of WAV and its kin, FLAC and MP3 (tests/benchmarks/decoders.py)."""

import mmap
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import numpy as np

from caspi.audio import memory_file
from caspi.audio.sniffing import Container
from caspi.audio.sound_file import SoundFile
from caspi.audio.stream import BLOCK_VALUES, Stream, as_file, mix

# libsndfile's frame count for a FLAC stream that does not say its length.
_UNKNOWN_LENGTH = 2**62

# An MP3 header rounds to whole frames and encoders pad, so only a clear shortfall counts.
_MP3_TOLERANCE_S = 0.5


@contextmanager
def open_stream(encoded: bytes | mmap.mmap, container: Container) -> Iterator[Stream]:
    """Read `encoded` by libsndfile.

    Raises:
        soundfile.LibsndfileError: it cannot, at once or while `blocks` are taken.
    """
    with _opened(encoded) as file:
        promised = _num_promised(file, encoded)
        tolerance = int(_MP3_TOLERANCE_S * file.samplerate) if file.format == "MP3" else 0
        codec = container.codec or container.name
        yield Stream(file.samplerate, codec, promised, tolerance, _blocks(file))


def _opened(encoded: bytes | mmap.mmap) -> AbstractContextManager[SoundFile]:
    # A mapped file may be too large for a copy. Threads read those, in which no exception comes from outside.
    return SoundFile(as_file(encoded)) if isinstance(encoded, mmap.mmap) else memory_file.reading(encoded)


def _blocks(file: SoundFile) -> Iterator[np.ndarray]:
    # 16-bit samples come as they are: libsndfile's own conversion to float costs three times the reading of a WAV.
    dtype, scale = ("int16", 2.0**-15) if file.subtype == "PCM_16" else ("float32", 1.0)
    length = max(1, BLOCK_VALUES // file.channels)
    while True:
        block = file.read(length, dtype=dtype, always_2d=True)  # (T, C)
        yield mix(block.T, scale)
        if (
            len(block) < length
        ):  # the end; asking once more makes libsndfile seek in vain where a FLAC's length is unknown
            return


def _num_promised(file: SoundFile, encoded: bytes | mmap.mmap) -> int | None:
    if file.frames >= _UNKNOWN_LENGTH:
        return None
    # Without a Xing or Info header an MP3's length is an estimate from the bit rate, and promises nothing.
    if file.format == "MP3" and not any(tag in encoded[:65536] for tag in (b"Xing", b"Info", b"VBRI")):
        return None
    return int(file.frames)
