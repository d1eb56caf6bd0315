"""A corpus for other tools: the same utterances in a format that they read, streamed, and complete or not there."""

import contextlib
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow.compute as pc

from caspi.corpus.commit import hold
from caspi.corpus.exports import FORMATS
from caspi.corpus.format import SPLITS, Corpus, Utterance
from caspi.errors import CorpusError, RequestError

ALL_SPLITS = "all"

_QUIET_S = 5.0  # between two reports of progress

# Says that a folder is an export at work, or what a killed one left: nothing else may be deleted.
_MARK = ".caspi-export"


@dataclass(frozen=True, slots=True)
class Exported:
    """What was written."""

    output: Path
    num_utterances: dict[str, int]  # by split


def export(
    corpus: str | Path,
    output: str | Path,
    *,
    format: str,
    split: str = ALL_SPLITS,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Exported:
    """Write the utterances of a corpus, of one split or of all that hold any, to `output` in one of FORMATS.

    The folder appears when it is complete; until then the work lies in `output`.partial. The same corpus gives the same
    bytes. One utterance, or one row group, is in memory at a time.

    `on_progress(done, total)` hears of utterances every few seconds, and of the last one.

    Raises:
        RequestError: the format or the split does not exist.
        CorpusError: `corpus` is none, has nothing in the split, is damaged; or `output` already holds something.
    """
    if format not in FORMATS:
        raise RequestError(f"format {format!r} is unknown; expected one of {', '.join(FORMATS)}")
    if split not in (*SPLITS, ALL_SPLITS):
        raise RequestError(f"split {split!r}; expected one of {', '.join((*SPLITS, ALL_SPLITS))}")
    opened = Corpus.open(corpus)
    counts = _count(opened, split)
    output = Path(output).expanduser().absolute()
    with _stage(output) as folder:
        heard = _Progress(sum(counts.values()), on_progress)
        for each in counts:
            FORMATS[format](folder, each, heard.follow(opened.iter_utterances(each)))
    return Exported(output, counts)


def _count(corpus: Corpus, split: str) -> dict[str, int]:
    """How many utterances there are to write, by split, in the splits' own order."""
    if split != ALL_SPLITS:
        return {split: len(corpus.index(split))}
    found = {each["values"]: each["counts"] for each in pc.value_counts(corpus.utterances["split"]).to_pylist()}
    return {each: found[each] for each in SPLITS if each in found}


@contextlib.contextmanager
def _stage(output: Path) -> Iterator[Path]:
    """The folder to write in, which becomes `output` at the end. What a killed export left there is removed first.

    Raises:
        CorpusError: `output` holds something, another export writes it, or the stage is not ours to remove.
    """
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise CorpusError(f"{output}: already there and not empty; choose another folder, or remove this one")
    folder = output.with_name(f"{output.name}.partial")
    mark = folder / _MARK
    if folder.exists() and not mark.exists() and any(folder.iterdir()):
        raise CorpusError(f"{folder}: no export left this; the export works there, so move it or choose another folder")
    folder.mkdir(parents=True, exist_ok=True)
    with hold(mark, whose="export"):
        _clear(folder)
        yield folder
        mark.unlink()
        folder.rename(output)


def _clear(folder: Path) -> None:
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != _MARK:
            path.unlink()


class _Progress:
    """Counts utterances on their way through."""

    def __init__(self, total: int, report: Callable[[int, int], None]) -> None:
        self._total, self._report = total, report
        self._done = 0
        self._last = time.monotonic()

    def follow(self, utterances: Iterable[Utterance]) -> Iterator[Utterance]:
        for utterance in utterances:
            yield utterance
            self._done += 1
            now = time.monotonic()
            if self._done == self._total or now - self._last >= _QUIET_S:
                self._last = now
                self._report(self._done, self._total)
