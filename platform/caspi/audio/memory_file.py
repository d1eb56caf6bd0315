"""Audio files in memory that libsndfile reads and writes by itself.

Of a Python file object it asks Python for every piece. An exception that comes meanwhile from outside (Ctrl-C, Ray
cancelling a task) ends in there unseen: libsndfile finds a whole recording damaged, writes half of one, or ends the
interpreter. A descriptor it uses without asking anybody.
"""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any

import numpy as np

from caspi.audio.sound_file import SoundFile


@contextmanager
def reading(encoded: bytes) -> Iterator[SoundFile]:
    """What libsndfile finds in these bytes."""
    with _memory() as memory:
        memory.write(encoded)
        memory.flush()
        os.lseek(memory.fileno(), 0, os.SEEK_SET)
        with SoundFile(memory.fileno(), closefd=False) as file:
            yield file


def written(samples: np.ndarray, sample_rate: int, **kind: Any) -> bytes:
    """A file of (num_samples,) or (num_samples, num_channels); `kind` as `soundfile.SoundFile` takes it."""
    num_channels = 1 if samples.ndim == 1 else samples.shape[1]
    with _memory() as memory:
        with SoundFile(memory.fileno(), "w", sample_rate, num_channels, closefd=False, **kind) as file:
            file.write(samples)
        memory.seek(0)
        return memory.read()


def _memory() -> IO[bytes]:
    """On a disk where the system is another than Linux."""
    if not hasattr(os, "memfd_create"):
        return tempfile.TemporaryFile()
    return open(os.memfd_create("audio"), "w+b")
