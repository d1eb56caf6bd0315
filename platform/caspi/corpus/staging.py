"""The stage: where prepared utterances wait until their place in the corpus is known.

The global shuffle needs every utterance's number before any shard can be written, and audio must not wait in memory.
So each task writes the utterances of a chunk into parts beside the output, and last of all the chunk's ledger: a light
row for every outcome. A chunk whose ledger is there is done; a run that was killed goes on with the others.
"""

import hashlib
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from caspi.audio import SAMPLE_RATE
from caspi.corpus.format import SHARD_SCHEMA
from caspi.corpus.ledger import LEDGER_SCHEMA
from caspi.corpus.preparation import Preparer
from caspi.corpus.rows import Chunk, Prepared, Refusal, Row
from caspi.corpus.splitting import draw_split, shuffle_key
from caspi.recipe.data import Data

# Audio that a task gathers before it writes a part: an upper bound of its memory, whatever the size of a chunk.
_PART_BYTES = 32 * 2**20

# Of one reason, in one chunk. The report picks a few of all.
_EXAMPLES_PER_REASON = 2


@dataclass(frozen=True, slots=True)
class Stage:
    """The folder of parts and ledgers. Files are named by the key of their chunk, in 256 folders."""

    path: Path

    def ledger(self, key: str) -> Path:
        """The chunk's ledger: there when the chunk is done."""
        return self.path / key[:2] / f"{key}.ledger.arrow"

    def part(self, key: str, number: int) -> Path:
        return self.path / key[:2] / f"{key}-{number:03d}.arrow"

    def begun(self, key: str) -> Path:
        """A mark that somebody began the chunk: who finds it knows that the one before did not come to its end."""
        return self.path / key[:2] / f"{key}.begun"

    def judged(self, key: str) -> Path:
        """The chunk's ledger after a model has listened to it."""
        return self.path / key[:2] / f"{key}.judged.arrow"

    def held_out(self, key: str) -> Path:
        """Ids and sounds of a chunk of an evaluation set."""
        return self.path / key[:2] / f"{key}.held_out.arrow"


def write_arrow(table: pa.Table, path: Path) -> None:
    """Write an Arrow file so that it is either there whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    with pa.ipc.new_file(temporary, table.schema) as writer:
        writer.write_table(table)
    os.replace(temporary, path)


def read_arrow(path: Path) -> pa.Table:
    """An Arrow file, mapped into memory: what is not looked at is not read."""
    return pa.ipc.open_file(pa.memory_map(str(path))).read_all()


def stage_rows(
    rows: Iterator[Row], chunk: Chunk, key: str, name: str, data: Data, preparer: Preparer, stage: Stage
) -> pa.Table:
    """Prepare the rows of a chunk into parts and a ledger, which is returned. Again, it writes the same bytes again."""
    writer = _ChunkWriter(key, data, stage)
    num_rows = 0
    for place, row in enumerate(rows):
        common = {
            "row": place,
            "recording_id": _storable(row.recording_id),
            "source": name,
        }
        for segment, outcome in enumerate(preparer.prepare(row)):
            identity = {"segment": segment, "utterance_id": _storable(outcome.utterance_id)}
            if isinstance(outcome, Refusal):
                writer.refuse(outcome, {**common, **identity})
            else:
                split = row.split or _drawn_split(row.recording_id, outcome.speaker_id, chunk, data)
                writer.keep(
                    outcome, {**common, **identity, "speaker_id": _storable(outcome.speaker_id), "split": split}
                )
        writer.flush_if_full()  # between rows, so that a row's outcomes stay together
        num_rows += 1
    assert num_rows == chunk.num_rows, f"{chunk.path}: {chunk.num_rows} rows were planned, {num_rows} were read"
    return writer.finish()


class _ChunkWriter:
    """The files of a chunk while they grow."""

    def __init__(self, key: str, data: Data, stage: Stage) -> None:
        self._key, self._data, self._stage = key, data, stage
        self._ledger: list[dict[str, Any]] = []
        self._utterances: list[dict[str, Any]] = []
        self._num_parts = self._num_bytes = 0
        self._part = self._name_part()
        self._num_examples: Counter[str] = Counter()

    def refuse(self, outcome: Refusal, common: dict[str, Any]) -> None:
        example = None
        if outcome.example and self._num_examples[outcome.reason] < _EXAMPLES_PER_REASON:
            self._num_examples[outcome.reason] += 1
            example = outcome.example()
        self._ledger.append(
            {
                **common,
                "start_s": outcome.start_s,
                "end_s": outcome.end_s,
                "reason": outcome.reason,
                "detail": _storable(outcome.detail),
                "text": _storable(outcome.text),
                "example": example,
            }
        )

    def keep(self, outcome: Prepared, common: dict[str, Any]) -> None:
        text = outcome.text.encode()
        self._ledger.append(
            {
                **common,
                "start_s": outcome.start_s,
                "end_s": outcome.end_s,
                "num_samples": round(outcome.duration_s * SAMPLE_RATE),
                "shuffle_key": shuffle_key(self._shuffled(common), self._data.shards.seed),
                "id_digest": _digest(common["utterance_id"].encode()),
                "recording_digest": _digest(f"{common['source']}:{common['recording_id']}".encode())[:8],
                "text_digest": _digest(text),
                "audio_digest": outcome.audio_digest,
                "file": self._part,
                "file_row": len(self._utterances),
            }
        )
        self._utterances.append(_shard_row(outcome, common, self._data.language))
        self._num_bytes += len(outcome.audio)

    def _shuffled(self, common: dict[str, Any]) -> str:
        """What the utterance's place in the shuffle follows from. Equal places keep the order of the source."""
        if self._data.shards.by == "recording" and common["split"] == "train":
            return f"{common['source']}:{common['recording_id']}"
        return str(common["utterance_id"])

    def flush_if_full(self) -> None:
        if self._num_bytes >= _PART_BYTES:
            self._flush()

    def finish(self) -> pa.Table:
        if self._utterances:
            self._flush()
        ledger = pa.Table.from_pylist(self._ledger, schema=LEDGER_SCHEMA)
        write_arrow(ledger, self._stage.ledger(self._key))  # last: now the chunk is done
        return ledger

    def _flush(self) -> None:
        table = pa.Table.from_pylist(self._utterances, schema=SHARD_SCHEMA)
        write_arrow(table, self._stage.path / self._part)
        self._utterances, self._num_bytes = [], 0
        self._num_parts += 1
        self._part = self._name_part()

    def _name_part(self) -> str:
        return str(self._stage.part(self._key, self._num_parts).relative_to(self._stage.path))


def _shard_row(outcome: Prepared, common: dict[str, Any], language: str) -> dict[str, Any]:
    measures = outcome.measures
    return {
        **{name: value for name, value in common.items() if name in SHARD_SCHEMA.names},
        "audio": outcome.audio,
        "duration_s": outcome.duration_s,
        "text": outcome.text,
        "language": language,
        "start_s": outcome.start_s,
        "end_s": outcome.end_s,
        "num_text_chars": len(outcome.text),
        "previous_text": outcome.previous_text,
        # Rounded, so that no machine's way of summing shows.
        "level_dbfs": round(measures.level_dbfs, 2),
        "clipped_share": round(measures.clipped_share, 6),
        "snr_db": None if measures.snr_db is None else round(measures.snr_db, 2),
        "speech_s": None if outcome.speech_s is None else round(outcome.speech_s, 3),
        "native_sample_rate": outcome.native_sample_rate,
        "codec": outcome.codec,
    }


def _drawn_split(recording_id: str, speaker_id: str | None, chunk: Chunk, data: Data) -> str:
    if speaker_id in data.splits.test_speakers:
        return "test"
    group = speaker_id if data.splits.by == "speaker" and speaker_id else recording_id
    return draw_split(group, data.splits, chunk.drawn_splits)


def _digest(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=16).digest()


def _storable(text: str | None) -> str | None:
    """Without lone surrogates, which JSON may hold and UTF-8 may not."""
    return None if text is None else text.encode("utf-8", "replace").decode()
