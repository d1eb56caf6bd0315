"""The stage: where prepared utterances wait until their place in the corpus is known.

The global shuffle needs every utterance's number before any shard can be written, and audio must not wait in memory.
So each task writes what it made into parts beside the output and returns ledger rows; later tasks pick rows out of the
parts.
"""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from caspi.corpus.format import SHARD_SCHEMA
from caspi.corpus.ledger import LEDGER_SCHEMA
from caspi.corpus.preparation import prepare_row
from caspi.corpus.rows import Chunk, Prepared, Refusal, Row
from caspi.corpus.sources import read_rows, source_names
from caspi.corpus.splitting import draw_split, shuffle_key
from caspi.recipe.data import Data
from caspi.text import normalizer

# Audio that a task gathers before it writes a part: an upper bound of its memory, whatever the size of a chunk.
_PART_BYTES = 64 * 2**20

# A reader of one utterance reads its row group: 32 utterances of 10 s are about 6 MB.
_ROWS_PER_GROUP = 32

# Rows of a chunk stay below this, so that (chunk, row) fits one number.
_CHUNK_STRIDE = 2**24


def prepare_chunk(number: int, chunk: Chunk, data: Data, stage: Path) -> Iterator[pa.Table]:
    """Prepare a chunk into parts; yields the ledger of each part. Running it again writes the same bytes again."""
    normalize, name = normalizer(data.language), source_names(data)[chunk.source]
    part = _Part(f"{number:06d}-000.arrow")
    for place, row in enumerate(read_rows(chunk, data)):
        split = row.split or _drawn_split(row, chunk, data)
        for segment, outcome in enumerate(prepare_row(row, data.filters, normalize)):
            common = {
                "row": number * _CHUNK_STRIDE + place,
                "segment": segment,
                "utterance_id": _storable(outcome.utterance_id),
                "recording_id": _storable(row.recording_id),
                "speaker_id": _storable(row.speaker_id),
                "source": name,
                "start_s": outcome.start_s,
                "end_s": outcome.end_s,
                "split": split,
            }
            part.add(outcome, common, data)
        if part.num_bytes >= _PART_BYTES:  # between rows, so that a row's outcomes stay together
            yield part.write(stage)
            part = _Part(f"{number:06d}-{int(part.name[7:10]) + 1:03d}.arrow")
    if part.ledger:
        yield part.write(stage)


def write_shard(shard: Path, parts: list[Path], rows: list[tuple[int, int]]) -> None:
    """Write the utterances at `rows`, (part, row within it), in their order."""
    tables = [pa.ipc.open_file(pa.memory_map(str(part))).read_all() for part in parts]
    plain = [name for name in SHARD_SCHEMA.names if name != "audio"]
    temporary = shard.with_suffix(".tmp")
    temporary.parent.mkdir(parents=True, exist_ok=True)
    with pq.ParquetWriter(
        temporary,
        SHARD_SCHEMA,
        compression={name: "NONE" if name == "audio" else "ZSTD" for name in SHARD_SCHEMA.names},  # FLAC is compressed
        use_dictionary=[name for name in plain if name not in ("utterance_id", "text")],
        write_statistics=plain,
    ) as writer:
        for first in range(0, len(rows), _ROWS_PER_GROUP):
            group = [tables[part].slice(row, 1) for part, row in rows[first : first + _ROWS_PER_GROUP]]
            writer.write_table(pa.concat_tables(group).combine_chunks(), row_group_size=_ROWS_PER_GROUP)
    os.replace(temporary, shard)  # a task that Ray runs twice must not leave half a shard


class _Part:
    """A file of the stage while it fills, and the ledger rows that belong to it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.num_bytes = 0
        self.ledger: list[dict[str, Any]] = []
        self._utterances: list[dict[str, Any]] = []

    def add(self, outcome: Prepared | Refusal, common: dict[str, Any], data: Data) -> None:
        if isinstance(outcome, Refusal):
            self.ledger.append({**common, "split": None, "reason": outcome.reason, "detail": _storable(outcome.detail)})
            return
        utterance = {
            **{name: common[name] for name in common if name in SHARD_SCHEMA.names},
            "audio": outcome.audio,
            "duration_s": outcome.duration_s,
            "text": outcome.text,
            "language": data.language,
            "num_text_chars": len(outcome.text),
        }
        text = outcome.text.encode()
        self.ledger.append(
            {
                **common,
                "shuffle_key": shuffle_key(common["utterance_id"], data.shards.seed),
                "duration_s": outcome.duration_s,
                "num_text_chars": len(outcome.text),
                "num_text_bytes": len(text),
                "digest": _digest(common["utterance_id"].encode(), common["split"].encode(), text, outcome.audio),
                "part": self.name,
                "part_row": len(self._utterances),
            }
        )
        self._utterances.append(utterance)
        self.num_bytes += len(outcome.audio)

    def write(self, stage: Path) -> pa.Table:
        """Write the part, if it has utterances, and return its ledger."""
        if self._utterances:
            table = pa.Table.from_pylist(self._utterances, schema=SHARD_SCHEMA)
            temporary = stage / f"{self.name}.{os.getpid()}.tmp"
            with pa.ipc.new_file(temporary, SHARD_SCHEMA) as writer:
                writer.write_table(table)
            os.replace(temporary, stage / self.name)
        return pa.Table.from_pylist(self.ledger, schema=LEDGER_SCHEMA)


def _drawn_split(row: Row, chunk: Chunk, data: Data) -> str:
    if row.speaker_id in data.splits.test_speakers:
        return "test"
    group = row.speaker_id if data.splits.by == "speaker" and row.speaker_id else row.recording_id
    return draw_split(group, data.splits, chunk.drawn_splits)


def _digest(*parts: bytes) -> bytes:
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        digest.update(len(part).to_bytes(8, "big") + part)
    return digest.digest()


def _storable(text: str | None) -> str | None:
    """Without lone surrogates, which JSON may hold and UTF-8 may not."""
    return None if text is None else text.encode("utf-8", "replace").decode()
