"""A file of an object store to a file of this machine, in a few large ranges at once."""

import errno
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from caspi.corpus.sources.files import read_bytes
from caspi.errors import StorageError

RANGE_BYTES = 16 * 2**20
"""Of one request. A store answers after some 50 ms whatever is asked of it: smaller ranges are mostly that."""

_RANGES_AT_ONCE = 4  # one connection has a tenth of what a machine's network has; memory is so many ranges


def download(url: str, target: Path, *, num_bytes: int) -> None:
    """Write the `num_bytes` of an object into a file. Each range is asked for again while the store stumbles.

    Raises:
        FileNotFoundError: there is no such object.
        SourceError: the store refuses, or gave no answer for the deadline.
        StorageError: the disk is full, or gone.
    """
    try:
        place = os.open(target, os.O_WRONLY | os.O_CREAT, 0o644)
    except OSError as error:
        raise disk_error(target, error) from error

    def copy(start: int) -> None:
        content = read_bytes(url, start, min(start + RANGE_BYTES, num_bytes))
        try:
            if os.pwrite(place, content, start) < len(content):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            raise disk_error(target, error) from error

    try:
        with ThreadPoolExecutor(_RANGES_AT_ONCE, "download") as threads:
            for _ in threads.map(copy, range(0, num_bytes, RANGE_BYTES)):
                pass  # the first failure is raised here, and what waits behind it is dropped
    finally:
        os.close(place)


def disk_error(path: Path, error: OSError) -> StorageError:
    """What to say of a disk that does not take what is downloaded."""
    return StorageError(
        f"{path}: {error.strerror or error}; make room there, lower CASPI_CORPUS_CACHE_GB, or move CASPI_HOME"
    )
