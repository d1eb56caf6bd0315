"""What a task does with one chunk: read, decode and encode it into the stage, or take its ids and sounds alone."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from caspi import audio
from caspi.audio import SAMPLE_RATE, Audio
from caspi.audio.isolation import IsolatedDecoder
from caspi.audio.watchdog import deadline
from caspi.corpus.leakage import HELD_OUT_SCHEMA, HeldOut
from caspi.corpus.preparation import Decoder, Preparer, digest
from caspi.corpus.rows import Chunk, Row
from caspi.corpus.sources import read_source
from caspi.corpus.staging import Stage, read_arrow, stage_rows, write_arrow
from caspi.errors import AudioError
from caspi.recipe.data import Data, EvaluationSets

STATUS_SCHEMA = pa.schema(
    [("num_rows", pa.int64()), ("num_rejected", pa.int64()), ("num_samples", pa.int64())]  # samples of what was kept
)

# A worker with its libraries and a part that is being written; samples as float32 and half as much again, see `decode`.
_WORKER_BYTES, _BYTES_PER_SAMPLE = 512 * 2**20, 6


@dataclass(frozen=True, slots=True)
class Item:
    """A chunk, the key that its results are kept under, and what its source is called."""

    chunk: Chunk
    key: str
    source_name: str


@dataclass(frozen=True, slots=True)
class HeldOutFiles:
    """Where the ids and sounds of the evaluation sets lie."""

    paths: tuple[Path, ...]
    sets: EvaluationSets


def prepare_chunk(item: Item, data: Data, parts: Path, held_out: HeldOutFiles | None) -> Iterator[pa.Table]:
    """Prepare a chunk into the stage, and say how much it was."""
    stage = Stage(parts)
    if stage.ledger(item.key).exists():  # by an attempt that died of a later chunk
        yield status(read_arrow(stage.ledger(item.key)), item.chunk.num_rows)
        return
    data = data.for_source(item.chunk.source)
    with _safe_decoder(stage, item.key, data) as decode:
        preparer = Preparer(data, decode=decode, held_out=_read_held_out(held_out) if held_out else None)
        rows = _read(item, data)
        ledger = stage_rows(rows, item.chunk, item.key, item.source_name, data, preparer, stage)
    yield status(ledger, item.chunk.num_rows)


def _read(item: Item, data: Data) -> Iterator[Row]:
    refused_flags = frozenset(data.filters.refused_flags)
    return read_source(item.chunk, data.sources[item.chunk.source], item.source_name, refused_flags)


def status(ledger: pa.Table, num_rows: int) -> pa.Table:
    """How much a chunk came to."""
    num_rejected = len(ledger) - ledger["reason"].null_count
    return pa.Table.from_pylist(
        [
            {
                "num_rows": num_rows,
                "num_rejected": num_rejected,
                "num_samples": pc.sum(ledger["num_samples"]).as_py() or 0,
            }
        ],
        schema=STATUS_SCHEMA,
    )


def recognise_chunk(item: Item, data: Data, parts: Path) -> Iterator[pa.Table]:
    """The ids and sounds of a chunk of an evaluation set, into the stage."""
    stage, name = Stage(parts), item.source_name
    found: list[dict[str, Any]] = []
    with _safe_decoder(stage, item.key, data) as decode:
        for row in _read(item, data):
            found += [{"set": name, "id": row_id} for row_id in {row.row_id, row.recording_id}]
            found += [{"set": name, "audio_digest": sound} for sound in _sounds(row, decode, data)]
    write_arrow(pa.Table.from_pylist(found, schema=HELD_OUT_SCHEMA), stage.held_out(item.key))
    yield pa.table({"num_rows": [item.chunk.num_rows]})


def _sounds(row: Row, decode: Decoder, data: Data) -> Iterator[bytes]:
    """Digests of the recording and of its segments. What cannot be decoded cannot be trained on either."""
    if row.encoded is None:
        return
    with contextlib.suppress(AudioError):
        decoded = decode(row.encoded, source=row.path, max_duration_s=data.decoding.max_recording_s)
        samples = audio.quantize(decoded.samples)
        yield digest(samples)
        for segment in row.segments or ():
            if segment.end_s is not None:
                span = samples[round(segment.start_s * SAMPLE_RATE) : round(segment.end_s * SAMPLE_RATE)]
                if len(span):
                    yield digest(span)


@lru_cache(maxsize=1)
def _read_held_out(files: HeldOutFiles) -> HeldOut:
    return HeldOut(map(read_arrow, files.paths), files.sets)


@contextlib.contextmanager
def _safe_decoder(stage: Stage, key: str, data: Data) -> Iterator[Decoder]:
    """A decoder that cannot stop the job.

    Usually it runs here, where it is fastest, and a decoder that dies or hangs takes this process with it. Ray starts
    the chunk again elsewhere; there the mark of the first attempt is found, and every recording of the chunk is decoded
    in a process apart, so that the guilty one alone is refused. Nor may reading the next row or writing a part take
    longer than a decoder may.
    """
    mark = stage.begun(key)
    mark.parent.mkdir(parents=True, exist_ok=True)
    timeout_s = data.decoding.timeout_s
    try:
        mark.touch(exist_ok=False)
    except FileExistsError:
        with IsolatedDecoder(timeout_s=timeout_s, memory_limit_bytes=_memory_limit(data)) as isolated:
            yield isolated.decode
    else:
        with deadline(timeout_s) as start_again:

            def decode_here(encoded: bytes, *, source: str, max_duration_s: float) -> Audio:
                start_again()
                return audio.decode(encoded, source=source, max_duration_s=max_duration_s)

            yield decode_here
    finally:  # whatever Python raises is not a decoder's death
        mark.unlink(missing_ok=True)


def task_memory(data: Data) -> int:
    """Bytes that a task takes while it prepares the longest recording that the recipe allows."""
    return _WORKER_BYTES + round(_BYTES_PER_SAMPLE * SAMPLE_RATE * data.decoding.max_recording_s)


def _memory_limit(data: Data) -> int:
    """Twice the longest recording's samples, and what a compressed file may need besides."""
    return round(2 * 4 * SAMPLE_RATE * data.decoding.max_recording_s) + 2**30
