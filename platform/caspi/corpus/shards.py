"""The files of a finished corpus: shards, the length index, the rejected rows, and the ledger for updates."""

import mmap
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from caspi.corpus.format import INDEX_SCHEMA, REJECTED_SCHEMA, SHARD_SCHEMA
from caspi.corpus.ledger import LEDGER_SCHEMA, Ledger, Shard, by_chunk

# A reader of one utterance reads its row group: 32 utterances of 10 s are about 6 MB.
_ROWS_PER_GROUP = 32

TASK_BYTES = 512 * 2**20
"""What a task takes that writes a shard: a worker with its libraries and a few row groups."""

# All but the audio.
LIGHT_COLUMNS = [name for name in SHARD_SCHEMA.names if name != "audio"]

# Of a file that is written row by row over many chunks.
_ROWS_AT_ONCE = 65536


def is_whole(shard: Path, num_rows: int) -> bool:
    """Was this shard written to its end by an earlier run?"""
    try:
        return bool(pq.read_metadata(shard).num_rows == num_rows)
    except (OSError, pa.ArrowInvalid):
        return False


def write_shard(
    shard: Path, files: Sequence[Path], rows: Sequence[tuple[int, int]], judge_wers: np.ndarray
) -> pa.Table:
    """Write the utterances at `rows`, (place in `files`, row within it), in their order; returns them without audio.

    `judge_wers` is what a model thinks of them, NaN for nothing.
    """
    reader = _RowReader(files)
    temporary = shard.with_suffix(f".{os.getpid()}.tmp")
    temporary.parent.mkdir(parents=True, exist_ok=True)
    light = []
    with pq.ParquetWriter(
        temporary,
        SHARD_SCHEMA,
        compression={name: "NONE" if name == "audio" else "ZSTD" for name in SHARD_SCHEMA.names},  # FLAC is compressed
        use_dictionary=[name for name in LIGHT_COLUMNS if name not in ("utterance_id", "text", "previous_text")],
        write_statistics=LIGHT_COLUMNS,
    ) as writer:
        for first in range(0, len(rows), _ROWS_PER_GROUP):
            group = [reader.read(file, row) for file, row in rows[first : first + _ROWS_PER_GROUP]]
            table = pa.concat_tables(group).combine_chunks()
            wers = pa.array(judge_wers[first : first + _ROWS_PER_GROUP], pa.float32(), from_pandas=True)
            table = table.set_column(table.schema.get_field_index("judge_wer"), "judge_wer", wers)
            writer.write_table(table, row_group_size=_ROWS_PER_GROUP)
            light.append(table.select(LIGHT_COLUMNS))
            reader.release()
    os.replace(temporary, shard)  # a task that Ray runs twice must not leave half a shard
    return pa.concat_tables(light)


class _RowReader:
    """Single rows of parts, which lie in memory maps, and of shards, a row group of each at a time."""

    def __init__(self, files: Sequence[Path]) -> None:
        self._parts = {place: _PartRows(path) for place, path in enumerate(files) if path.suffix == ".arrow"}
        self._shards = {place: _ShardRows(path) for place, path in enumerate(files) if path.suffix == ".parquet"}

    def read(self, file: int, row: int) -> pa.Table:
        return self._parts[file].read(row) if file in self._parts else self._shards[file].read(row)

    def release(self) -> None:
        """Let go of the pages that were read, which would add up to all that the shard holds."""
        for part in self._parts.values():
            part.release()


class _PartRows:
    def __init__(self, path: Path) -> None:
        with open(path, "rb") as file:
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self._map.madvise(mmap.MADV_RANDOM)  # rows are picked here and there: what lies beside them is not wanted
        self._table = pa.ipc.open_file(pa.BufferReader(pa.py_buffer(self._map))).read_all()

    def read(self, row: int) -> pa.Table:
        return self._table.slice(row, 1)

    def release(self) -> None:
        self._map.madvise(mmap.MADV_DONTNEED)


class _ShardRows:
    def __init__(self, path: Path) -> None:
        self._file = pq.ParquetFile(path, memory_map=True)
        sizes = [self._file.metadata.row_group(group).num_rows for group in range(self._file.num_row_groups)]
        self._starts = np.cumsum([0, *sizes])
        self._group = -1
        self._table = SHARD_SCHEMA.empty_table()

    def read(self, row: int) -> pa.Table:
        group = int(np.searchsorted(self._starts, row, side="right")) - 1
        if group != self._group:
            self._group = group
            self._table = self._file.read_row_group(group, columns=SHARD_SCHEMA.names, use_threads=False)
        return self._table.slice(row - int(self._starts[group]), 1)


def write_index(corpus: Path, shards: Iterable[Shard]) -> None:
    """utterances.parquet, from the light columns of the shards, one of them in memory at a time."""
    with pq.ParquetWriter(corpus / "utterances.parquet", INDEX_SCHEMA, compression="zstd") as writer:
        for tables in _batched(_index_of(corpus, shard.path) for shard in shards):
            writer.write_table(pa.concat_tables(tables).combine_chunks())


def _index_of(corpus: Path, shard: str) -> pa.Table:
    stored = [name for name in INDEX_SCHEMA.names if name in SHARD_SCHEMA.names]
    table = pq.read_table(corpus / shard, columns=[*stored, "text"])
    columns = {name: table[name] for name in stored}
    columns["shard"] = pa.array([shard] * len(table), pa.string())
    columns["row"] = pa.array(np.arange(len(table), dtype=np.int32))
    columns["num_text_bytes"] = pc.binary_length(table["text"])
    return pa.table({field.name: columns[field.name] for field in INDEX_SCHEMA}, schema=INDEX_SCHEMA)


def write_rejected(path: Path, ledger: Ledger, read_chunk: Callable[[int], pa.Table]) -> None:
    """rejected.parquet, in the order of the sources. `read_chunk` gives a chunk's own ledger."""
    schema = REJECTED_SCHEMA
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for tables in _batched(_rejected_of(ledger, read_chunk)):
            writer.write_table(pa.concat_tables(tables).combine_chunks())


def _rejected_of(ledger: Ledger, read_chunk: Callable[[int], pa.Table]) -> Iterator[pa.Table]:
    reasons = pa.array(ledger.reasons.words, pa.string())
    for chunk, refused in by_chunk(ledger, np.flatnonzero(~ledger.is_kept)):
        table = read_chunk(chunk).take(pa.array(ledger["entry"][refused]))
        columns = {name: table[name] for name in REJECTED_SCHEMA.names}
        columns["reason"] = reasons.take(pa.array(ledger["reason"][refused]))
        columns["detail"] = pc.coalesce(
            table["detail"], pa.array(map(details_of, columns["reason"].to_pylist()), pa.string())
        )
        yield pa.table({name: _plain(column) for name, column in columns.items()}).cast(REJECTED_SCHEMA)


_DETAILS = {
    "duplicate_id": "another utterance before it has the same id",
    "duplicate": "another utterance before it has the same sound and the same text",
    "duplicate_audio": "another utterance before it has the same sound and another text",
    "recording_on_two_sides": "another utterance of the recording is in a split that must not be trained on",
}


def details_of(reason: str) -> str:
    """The detail of what only the whole corpus told; a chunk's own ledger says the rest."""
    return _DETAILS.get(reason, "")


def _plain(column: pa.ChunkedArray | pa.Array) -> pa.ChunkedArray | pa.Array:
    return column.cast(column.type.value_type) if pa.types.is_dictionary(column.type) else column


def _batched(tables: Iterable[pa.Table]) -> Iterator[list[pa.Table]]:
    """Small tables in lists that make a row group each."""
    waiting: list[pa.Table] = []
    num_rows = 0
    for table in tables:
        waiting.append(table)
        num_rows += len(table)
        if num_rows >= _ROWS_AT_ONCE:
            yield waiting
            waiting, num_rows = [], 0
    if waiting:
        yield waiting


# --- for updates ------------------------------------------------------------------------------------------------------

SAVED_SCHEMA = pa.schema([("chunk", pa.string()), *LEDGER_SCHEMA])


@dataclass(frozen=True, slots=True)
class Placement:
    """Where each outcome of a ledger went."""

    shards: pa.Array  # their paths
    shard: np.ndarray  # (num_outcomes,) place in `shards`
    row: np.ndarray  # (num_outcomes,) row of the shard

    @classmethod
    def of(cls, order: np.ndarray, shards: Sequence[Shard], num_outcomes: int) -> "Placement":
        shard_of, row_of = np.zeros(num_outcomes, np.int32), np.zeros(num_outcomes, np.int32)
        for number, shard in enumerate(shards):
            places = order[shard.start : shard.stop]
            shard_of[places], row_of[places] = number, np.arange(len(places))
        return cls(pa.array([shard.path for shard in shards], pa.string()), shard_of, row_of)


def write_ledger(
    path: Path,
    ledger: Ledger,
    keys: Sequence[str],
    read_chunk: Callable[[int], pa.Table],
    placement: Placement,
    shown: Collection[tuple[int, int]],
) -> None:
    """ledger.parquet: the chunks' ledgers with their keys, and every utterance's place in the shards.

    A chunk of which the whole corpus refused something is left out: its audio is nowhere, and in another company it
    might be kept. An update prepares such a chunk again. Of the examples only those `shown` in the report are kept,
    (chunk, entry).
    """
    with pq.ParquetWriter(path, SAVED_SCHEMA, compression="zstd") as writer:
        for tables in _batched(_saved(ledger, keys, read_chunk, placement, shown)):
            writer.write_table(pa.concat_tables(tables).unify_dictionaries().combine_chunks())


def _saved(
    ledger: Ledger,
    keys: Sequence[str],
    read_chunk: Callable[[int], pa.Table],
    placement: Placement,
    shown: Collection[tuple[int, int]],
) -> Iterator[pa.Table]:
    for chunk, places in by_chunk(ledger, np.arange(len(ledger))):
        table = read_chunk(chunk)
        is_kept = ledger.is_kept_at(places)
        if not np.array_equal(pc.is_null(table["reason"]).to_numpy(), is_kept):
            continue
        columns = {name: table[name] for name in LEDGER_SCHEMA.names}
        columns["file"] = placement.shards.take(pa.array(placement.shard[places], mask=~is_kept)).dictionary_encode()
        columns["file_row"] = pa.array(placement.row[places], mask=~is_kept)
        is_shown = pa.array([(chunk, entry) in shown for entry in range(len(table))])
        columns["example"] = pc.if_else(is_shown, table["example"], pa.scalar(None, pa.binary()))
        yield pa.table({"chunk": pa.array([keys[chunk]] * len(table)), **columns}).cast(SAVED_SCHEMA)
