"""A recording while it is decoded, whichever library does it."""

import io
import mmap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import BinaryIO, cast

import numpy as np

BLOCK_VALUES = 2**18
"""Values (samples times channels) that are decoded at once: 1 MiB as float32, whatever rate and channels claim."""


@dataclass(frozen=True, slots=True)
class Stream:
    """An open recording."""

    sample_rate: int  # Hz, of the samples that come; Opus knows only 48 kHz, whatever was encoded
    codec: str
    num_promised: int | None  # samples per channel that the header speaks of; None where it is silent
    tolerance: int  # how many samples that promise may be off in a healthy file
    blocks: Iterator[np.ndarray]  # of (T,) float32, channels averaged


def as_file(encoded: bytes | mmap.mmap) -> BinaryIO:
    """The bytes as decoders want them, without a copy: a mapped file is read where it lies."""
    if isinstance(encoded, mmap.mmap):
        encoded.seek(0)  # one decoder may have tried before another
        return cast(BinaryIO, encoded)
    return io.BytesIO(encoded)


def mix(columns: Sequence[np.ndarray] | np.ndarray, scale: float = 1.0) -> np.ndarray:
    """The channels' average times `scale`, from (C, T) of any number type to (T,) float32.

    By sums of whole channels: three times as fast as a mean along the short axis, and unlike a product of matrices
    the same to the bit on every machine.
    """
    # Numbers of a damaged file may be too large to add. What comes of it is refused as invalid samples, not warned of.
    with np.errstate(over="ignore", invalid="ignore"):
        mono = columns[0].astype(np.float32)
        for channel in columns[1:]:
            mono += channel
        factor = scale / len(columns)
        if factor != 1.0:
            mono *= np.float32(factor)
    return mono
