"""From a stage to a corpus at once, and never over what somebody may still need."""

import contextlib
import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from caspi.errors import CaspiError, CorpusError


@dataclass(frozen=True, slots=True)
class Work:
    """The folder beside `output` where the work lies until it is complete."""

    output: Path

    @property
    def folder(self) -> Path:
        return self.output.with_name(f"{self.output.name}.partial")

    @property
    def parts(self) -> Path:
        """Prepared chunks, named by what they hold: of use to any plan that needs the same."""
        return self.folder / "parts"

    @property
    def corpus(self) -> Path:
        """The corpus as it grows. Its manifest comes last."""
        return self.folder / "corpus"

    @property
    def plan(self) -> Path:
        """Which plan `corpus` belongs to."""
        return self.folder / "plan.json"


def check_output(output: Path, *, overwrite: bool, update: bool) -> None:
    """Raises CorpusError when `output` holds something that must not be replaced."""
    is_corpus = (output / "manifest.json").exists()
    if is_corpus and not (overwrite or update):
        raise CorpusError(
            f"{output}: already holds a corpus; choose another folder, bring it up to date with --update, "
            "or replace it with --overwrite"
        )
    if output.exists() and not is_corpus and (not output.is_dir() or any(output.iterdir())):
        raise CorpusError(f"{output}: already there and not a corpus; choose another folder")


@contextlib.contextmanager
def locked(work: Work) -> Iterator[None]:
    """Keep others out of the work.

    Raises:
        CorpusError: another process prepares the same corpus.
    """
    work.folder.mkdir(parents=True, exist_ok=True)
    with hold(work.folder / "lock", whose="preparation"):
        yield


@contextlib.contextmanager
def hold(lock: Path, *, whose: str, error: type[CaspiError] = CorpusError) -> Iterator[None]:
    """Lock a file, in a folder that only one may write. The lock goes with its process, however that ends.

    Raises:
        CorpusError: another process holds it; or what `error` says.
    """
    with open(lock, "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as cause:
            raise error(f"{lock.parent}: another {whose} is at work here; wait for it, or stop it") from cause
        yield


def begin(work: Work, plan: str) -> None:
    """Make the folder ready for a plan. What an earlier run with the same plan put together stays."""
    work.parts.mkdir(parents=True, exist_ok=True)
    if _read_plan(work) != plan:
        shutil.rmtree(work.corpus, ignore_errors=True)
        work.corpus.mkdir()  # before the plan: a plan without a corpus would look like one that was moved away
        write_text(work.plan, json.dumps({"plan": plan}))
    work.corpus.mkdir(exist_ok=True)


def is_complete(work: Work) -> bool:
    """Is the corpus ready, and only waits to be moved?"""
    return (work.corpus / "manifest.json").exists()


def is_committed(work: Work, plan: str) -> bool:
    """Did an earlier run with this plan end between moving the corpus and tidying up?"""
    return _read_plan(work) == plan and not work.corpus.exists() and (work.output / "manifest.json").exists()


def commit(work: Work) -> None:
    """Let the finished corpus appear at once; what it replaces, and the parts, go."""
    old = work.output.with_name(f"{work.output.name}.old")
    if work.output.exists():
        shutil.rmtree(old, ignore_errors=True)
        work.output.rename(old)
    work.corpus.rename(work.output)
    tidy_up(work)
    shutil.rmtree(old, ignore_errors=True)


def tidy_up(work: Work) -> None:
    """Remove the folder."""
    shutil.rmtree(work.folder, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """Write a file so that it is either there whole or not at all."""
    temporary = path.with_name(f"{path.name}.tmp")
    with open(temporary, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def _read_plan(work: Work) -> str | None:
    try:
        return str(json.loads(work.plan.read_text(encoding="utf-8"))["plan"])
    except (OSError, ValueError, KeyError):
        return None
