"""The checkpoints of a run: written beside the training, whole or not at all, and never the last good one lost.

RUN/checkpoints/
  owner                     who may write: the group of workers that started last
  checkpoint-000120/        whole, since it has this name
  .partial-000120-.../      being written, or left by a process that died; removed at the next start
  .damaged-000120/          does not match its hashes; kept until the next whole one

Not Ray Train's own store: one truncated file of its state makes a run unusable (ray 2.60), and reporting to it is a
barrier for all workers.
"""

import contextlib
import logging
import os
import shutil
import uuid
from collections import deque
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from caspi.errors import StorageError
from caspi.model import Loaded
from caspi.training import checkpoint
from caspi.training.checkpoint import Snapshot

logger = logging.getLogger(__name__)

_NAME, _PARTIAL, _DAMAGED = "checkpoint-", ".partial-", ".damaged-"


class Store:
    """Checkpoints in a folder that all machines see. One process writes: the last that called `claim`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._token = uuid.uuid4().hex

    def claim(self) -> None:
        """Become the one who writes. Whoever was it before finds out when it next tries."""
        self.folder.mkdir(parents=True, exist_ok=True)
        temporary = self.folder / f".{self._token}"
        temporary.write_text(self._token, encoding="utf-8")
        temporary.rename(self.folder / "owner")
        for path in self.folder.glob(f"{_PARTIAL}*"):
            shutil.rmtree(path, ignore_errors=True)

    def path(self, step: int) -> Path:
        """Where the checkpoint after `step` is, or would be."""
        return self.folder / f"{_NAME}{step:06d}"

    def steps(self) -> list[int]:
        """The steps whose checkpoints are there, oldest first."""
        names = [path.name.removeprefix(_NAME) for path in self.folder.glob(f"{_NAME}*")]
        return sorted(int(name) for name in names if name.isdigit())

    def newest_good(self) -> tuple[Path | None, list[str]]:
        """The newest checkpoint whose every file is as it was written, and what was found wrong with newer ones.

        Those are put aside. None: there is no good one.
        """
        found: list[str] = []
        for step in reversed(self.steps()):
            path = self.path(step)
            problem = checkpoint.damage(path)
            if problem is None:
                return path, found
            found.append(f"{path.name}: {problem}")
            logger.warning("damaged checkpoint=%s: %s", path, problem)
            aside = self.folder / f"{_DAMAGED}{step:06d}"
            shutil.rmtree(aside, ignore_errors=True)
            path.rename(aside)
        return None, found

    def write(self, snapshot: Snapshot, loaded: Loaded) -> Path:
        """Write a checkpoint, let it appear at once, and return its path.

        Raises:
            OSError: the disk is full, or gone. What was there before is untouched.
        """
        path = self.path(snapshot.state.step)
        partial = self.folder / f"{_PARTIAL}{snapshot.state.step:06d}-{self._token[:8]}"
        try:
            partial.mkdir()
            snapshot.write(partial, loaded)
            self._check_owner()
            if path.exists():  # the same step of a run that went back: the same content
                shutil.rmtree(path)
            partial.rename(path)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        for damaged in self.folder.glob(f"{_DAMAGED}*"):
            shutil.rmtree(damaged, ignore_errors=True)
        return path

    def prune(self, keep: Collection[int]) -> list[int]:
        """Remove all checkpoints but those of the steps in `keep`. Returns the removed steps."""
        self._check_owner()
        removed = [step for step in self.steps() if step not in keep]
        for step in removed:
            # Renamed first: a reader must never see one that lacks files.
            dying = self.path(step).rename(self.folder / f"{_PARTIAL}{step:06d}-removed")
            shutil.rmtree(dying, ignore_errors=True)
        return removed

    def _check_owner(self) -> None:
        owner = (self.folder / "owner").read_text(encoding="utf-8")
        if owner != self._token:
            raise _NotOwner(f"{self.folder}: another group of workers has taken this run over")


class _NotOwner(Exception):
    """This process was given up by the run, and has not noticed yet."""


class Background:
    """A thread that does storage work in order, while training goes on. The first failure is kept for `check`."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="storage")
        self._running: deque[Future[Any]] = deque()

    def do(self, function: Callable[..., Any], *arguments: Any) -> None:
        """Have some work done after the work that waits already."""
        self._running.append(self._pool.submit(function, *arguments))

    def check(self) -> None:
        """Raises StorageError when some work has failed."""
        while self._running and self._running[0].done():
            _result(self._running.popleft())

    def wait(self) -> None:
        """Wait for all work.

        Raises:
            StorageError: some of it failed.
        """
        while self._running:
            _result(self._running.popleft())

    def close(self) -> None:
        """Wait for all work, whatever came of it."""
        self._pool.shutdown(wait=True)


def _result(work: Future[Any]) -> None:
    try:
        work.result()
    except OSError as error:
        raise storage_error(error) from error


def storage_error(error: OSError) -> StorageError:
    """What to say of a disk that is full or gone."""
    place = f"{error.filename}: " if error.filename else ""
    return StorageError(
        f"{place}{os.strerror(error.errno) if error.errno else error}: the run cannot be saved and has stopped; "
        "earlier checkpoints are untouched. Make room or bring the storage back, and go on with --resume"
    )


@contextlib.contextmanager
def replaced(folder: Path) -> Iterator[Path]:
    """Fill a new folder within the block; then it takes the place of `folder`. Readers see the old or the new."""
    fresh, old = folder.with_name(f".{folder.name}.new"), folder.with_name(f".{folder.name}.old")
    for leftover in (fresh, old):
        shutil.rmtree(leftover, ignore_errors=True)
    yield fresh
    if folder.exists():
        folder.rename(old)
    fresh.rename(folder)
    shutil.rmtree(old, ignore_errors=True)
