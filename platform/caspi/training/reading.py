"""Rows of shards by their position in a split's order, from a few open shards, in bounded memory."""

import os
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from caspi.corpus import Corpus
from caspi.errors import StorageError, TrainingError
from caspi.training.lengths import LengthIndex, shard_sizes

_LIGHT_COLUMNS = ["utterance_id", "text", "language", "previous_text"]


@dataclass(frozen=True, slots=True)
class TrainingRow:
    """What training reads of a row of a shard."""

    utterance_id: str
    encoded: bytes
    text: str
    language: str  # ISO 639 code
    previous_text: str | None


class ShardReader:
    """Keeps the shards of the present window open: their texts in memory, their audio on disk. For any thread."""

    def __init__(
        self,
        corpus: Corpus,
        shards: Sequence[str],
        starts: np.ndarray,
        *,
        gaps_s: np.ndarray | None = None,
        max_open_shards: int = 8,
    ) -> None:
        """`shards` are paths below the corpus; shard i holds the positions from `starts[i]` to `starts[i + 1]`.

        `gaps_s` are the pauses before each position, for clips of several.
        """
        self._corpus, self._shards, self._starts, self._gaps_s = corpus, shards, starts, gaps_s
        self._max_open = max_open_shards
        self._open: OrderedDict[int, _OpenShard] = OrderedDict()
        self._lock = threading.Lock()

    @classmethod
    def of_index(cls, corpus: Corpus, index: LengthIndex, *, max_open_shards: int) -> "ShardReader":
        return cls(corpus, index.shards, index.starts, gaps_s=index.gaps_s, max_open_shards=max_open_shards)

    @classmethod
    def of_split(cls, corpus: Corpus, split: str) -> "ShardReader":
        """A reader of a split of which there is no length index.

        Raises:
            CorpusError: the split does not exist or holds no utterance.
        """
        sizes = shard_sizes(corpus, split)
        return cls(corpus, list(sizes), np.cumsum([0, *sizes.values()]))

    def read(self, position: int) -> TrainingRow:
        """The row at a position.

        Raises:
            TrainingError: its shard is not there, is damaged, or does not hold what the index says.
        """
        number = self.shard_of(position)
        with self._lock:
            return self._shard(number).read(position - int(self._starts[number]))

    def gaps_s(self, position: int, count: int) -> list[float]:
        """The pauses between `count` neighbours from a position on."""
        if count == 1:
            return []
        assert self._gaps_s is not None, "only a plan joins neighbours, and its index knows their pauses"
        return self._gaps_s[position + 1 : position + count].tolist()

    def shard_of(self, position: int) -> int:
        """Number of the shard that holds a position."""
        return int(np.searchsorted(self._starts, position, side="right")) - 1

    def draw(self, number: int, random: np.random.Generator) -> int:
        """The position of some row of a shard."""
        return int(random.integers(self._starts[number], self._starts[number + 1]))

    def place_of(self, position: int) -> str:
        """The shard that holds a position, for messages."""
        return _place(self._corpus, self._shards[self.shard_of(position)])

    def texts(self, number: int) -> list[str]:
        """All texts of a shard, in the order of its rows."""
        with self._lock:
            return self._shard(number).texts()

    def _shard(self, number: int) -> "_OpenShard":
        if number not in self._open:
            num_rows = int(self._starts[number + 1] - self._starts[number])
            self._open[number] = _OpenShard.open(self._corpus, self._shards[number], num_rows)
            if len(self._open) > self._max_open:
                self._open.popitem(last=False)[1].held.close()
        self._open.move_to_end(number)
        return self._open[number]


@dataclass
class _OpenShard:
    place: str  # for messages
    held: ExitStack  # the file, and of an object store's corpus its place on this machine
    file: pq.ParquetFile
    rows: pa.Table  # without audio
    group_starts: np.ndarray  # (num_row_groups + 1,)
    _last: tuple[int, pa.ChunkedArray] = field(default=(-1, pa.chunked_array([], pa.binary())))  # row group, audio

    @classmethod
    def open(cls, corpus: Corpus, shard: str, num_rows: int) -> "_OpenShard":
        place = _place(corpus, shard)
        with ExitStack() as stack, _naming(place):
            path = stack.enter_context(corpus.shard(shard))
            _announce(path)
            # Not memory-mapped: storage that goes away would then be a signal that kills the worker, not an error.
            file = stack.enter_context(pq.ParquetFile(path))
            rows = file.read(_LIGHT_COLUMNS, use_threads=False)
            if len(rows) != num_rows:
                raise TrainingError(f"{place}: {len(rows)} rows, the index says {num_rows}; prepare the corpus again")
            sizes = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
            return cls(place, stack.pop_all(), file, rows, np.cumsum([0, *sizes]))

    def read(self, row: int) -> TrainingRow:
        group = int(np.searchsorted(self.group_starts, row, side="right")) - 1
        if group != self._last[0]:
            with _naming(self.place):
                self._last = group, self.file.read_row_group(group, ["audio"], use_threads=False)["audio"]
        encoded = self._last[1][row - int(self.group_starts[group])].as_py()
        return TrainingRow(encoded=encoded, **self.rows.slice(row, 1).to_pylist()[0])

    def texts(self) -> list[str]:
        return list(self.rows["text"].to_pylist())


def _announce(path: Path) -> None:
    """Let the system read a shard from front to back: it is wanted whole within the window, though not in order."""
    if hasattr(os, "posix_fadvise"):
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_WILLNEED)


def _place(corpus: Corpus, shard: str) -> str:
    return f"{corpus.location}/{shard}"


@contextmanager
def _naming(place: str) -> Iterator[None]:
    """Say which shard it was."""
    try:
        yield
    except StorageError as error:
        raise TrainingError(f"{error}. Checkpoints are kept: go on with --resume once that is done") from error
    except (OSError, pa.ArrowException) as error:
        raise TrainingError(f"{place}: cannot be read: {error}; bring it back, or prepare the corpus again") from error
