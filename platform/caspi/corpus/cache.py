"""Shards of corpora in object stores as files of this machine: one download whoever asks, in bounded room.

ROOT/
  lock                      held while somebody makes room
  CORPUS/SPLIT/
    shard-00000.parquet        whole, since it has this name; locked by readers; its time is that of its last use
    shard-00000.parquet.part   being downloaded, or left by a process that died
    shard-00000.parquet.lock   locked by whoever downloads it

Locks are the system's: they go with their process, however that ends.
"""

import contextlib
import fcntl
import logging
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from caspi import settings
from caspi.corpus.sources.downloading import disk_error

logger = logging.getLogger(__name__)

Fetch = Callable[[Path], None]


@dataclass(frozen=True, slots=True)
class ShardCache:
    """Keeps what was fetched until its room is needed for something else."""

    root: Path

    @contextlib.contextmanager
    def held(self, path: Path, num_bytes: int, fetch: Fetch) -> Iterator[Path]:
        """A file below the root, which stays there for as long as the block runs.

        Where it is missing, `fetch` is called to fill the file that it is given. Of all who ask at once, in whatever
        process, one fetches and the others wait. What nobody holds goes to make room, the least recently used first.

        Raises:
            StorageError: the disk is full, or gone.
        """
        file = self._get(path, num_bytes, fetch)
        assert file is not None, "whoever waits gets it"
        with file:
            yield path

    def ensure(self, path: Path, num_bytes: int, fetch: Fetch) -> bool:
        """Bring a file here for later. False: somebody else is at it, or there is no room for it now."""
        file = self._get(path, num_bytes, fetch, is_for_later=True)
        if file is not None:
            file.close()
        return file is not None

    def find(self, path: Path, num_bytes: int) -> BinaryIO | None:
        """The file, held until it is closed, if it is here."""
        try:
            file = path.open("rb")
        except FileNotFoundError:
            return None
        fcntl.flock(file, fcntl.LOCK_SH)
        state = os.fstat(file.fileno())
        # It may have been dropped between opening and locking, or a machine lost its power while it was written.
        if not state.st_nlink or state.st_size != num_bytes:
            file.close()
            return None
        os.utime(file.fileno())
        return file

    def _get(self, path: Path, num_bytes: int, fetch: Fetch, *, is_for_later: bool = False) -> BinaryIO | None:
        try:
            return self.find(path, num_bytes) or self._bring(path, num_bytes, fetch, is_for_later=is_for_later)
        except OSError as error:
            raise disk_error(path, error) from error

    def _bring(self, path: Path, num_bytes: int, fetch: Fetch, *, is_for_later: bool) -> BinaryIO | None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with lock(path.with_name(f"{path.name}.lock"), wait=not is_for_later) as is_ours:
            if not is_ours:
                return None
            if (file := self.find(path, num_bytes)) is not None:
                return file  # whoever had the lock before has brought it
            part = path.with_name(f"{path.name}.part")
            part.unlink(missing_ok=True)
            if not self._reserve(part, num_bytes, may_exceed=not is_for_later):
                return None
            try:
                fetch(part)
                file = part.open("rb")
                fcntl.flock(file, fcntl.LOCK_SH)  # before others can see it, and drop it
                part.rename(path)
            except BaseException:
                part.unlink(missing_ok=True)
                raise
            return file

    def _reserve(self, part: Path, num_bytes: int, *, may_exceed: bool) -> bool:
        """Make room for a file and take it. False: too much is held by others, and the bound may not be exceeded."""
        max_bytes = settings.read().corpus_cache_bytes
        with lock(self.root / "lock"):
            _remove_left(self.root)
            kept = sorted((*_state(path), path) for path in self.root.glob("*/*/*.parquet"))
            used = num_bytes + sum(size for _, size, _ in kept)
            used += sum(_state(path)[1] for path in self.root.glob("*/*/*.part"))
            for _, size, path in kept:
                if used <= max_bytes:
                    break
                if _drop(path):
                    used -= size
            if used > max_bytes:
                if not may_exceed:
                    return False
                logger.warning(
                    "shards that are read at once take %.2f GB in %s; CASPI_CORPUS_CACHE_GB=%.2f is too little",
                    used / 1e9, self.root, max_bytes / 1e9,
                )  # fmt: skip
            with part.open("wb") as file:
                file.truncate(num_bytes)  # seen by others who count, though it takes no room on the disk yet
        return True


def _state(path: Path) -> tuple[float, int]:
    """When a file was used last, and its size. Of one that has just gone: never, and none."""
    try:
        state = path.stat()
    except FileNotFoundError:
        return 0.0, 0
    return state.st_mtime, state.st_size


def _drop(path: Path) -> bool:
    """Remove a file unless somebody holds it."""
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()
    except FileNotFoundError:
        return True
    except BlockingIOError:
        return False
    return True


def _remove_left(root: Path) -> None:
    """Remove what processes that died were downloading."""
    for part in root.glob("*/*/*.part"):
        with lock(part.with_suffix(".lock"), wait=False) as is_ours:
            if is_ours:
                part.unlink(missing_ok=True)


@contextlib.contextmanager
def lock(path: Path, *, wait: bool = True) -> Iterator[bool]:
    """Lock a file for the block. Without `wait`: False where another one holds it."""
    with path.open("wb") as file:
        is_ours = True
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            is_ours = False
        yield is_ours
