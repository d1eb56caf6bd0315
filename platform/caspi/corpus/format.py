"""The corpus on disk: what `prepare` writes and everything after it reads.

corpus/
  train|validation|test/shard-00000.parquet   SHARD_SCHEMA: encoded audio, text, numbers
  utterances.parquet                          INDEX_SCHEMA: a light row per utterance, in shard order: the length index
  rejected.parquet                            REJECTED_SCHEMA: every refusal with its reason
  ledger.parquet                              what an update needs to prepare only what is new
  manifest.json                               counts that add up, statistics, and the fingerprint
  report.html                                 the same for the eye and the ear
  prepare.json                                how long it took; no part of what two runs agree on
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from caspi.errors import CorpusError

SCHEMA_VERSION = 3
SPLITS = ("train", "validation", "test")

LISTEN_S = 8.0
"""How much of a refusal the report plays: long enough to hear what is wrong, short enough for a page."""

SHARD_SCHEMA = pa.schema(
    [
        ("utterance_id", pa.string()),
        ("audio", pa.binary()),  # FLAC, 16 kHz, mono
        ("duration_s", pa.float64()),
        ("text", pa.string()),
        ("language", pa.string()),
        ("source", pa.string()),
        ("recording_id", pa.string()),
        ("speaker_id", pa.string()),
        ("start_s", pa.float64()),
        ("end_s", pa.float64()),
        ("split", pa.string()),
        ("num_text_chars", pa.int32()),
        ("previous_text", pa.string()),  # what was said just before in the recording, where it is known
        ("level_dbfs", pa.float32()),
        ("clipped_share", pa.float32()),
        ("snr_db", pa.float32()),  # estimated; null where there is too little to estimate from
        ("speech_s", pa.float32()),  # by voice activity detection; null without data.cutting.voice_activity
        ("judge_wer", pa.float32()),  # of data.meaning's model against the text; null without it
        ("native_sample_rate", pa.int32()),  # Hz, of the file that it came from
        ("codec", pa.string()),  # of the file that it came from
    ]
)

INDEX_SCHEMA = pa.schema(
    [
        ("utterance_id", pa.string()),
        ("split", pa.string()),
        ("shard", pa.string()),  # path of the shard, relative to the corpus
        ("row", pa.int32()),  # row within the shard
        ("duration_s", pa.float64()),
        ("num_text_chars", pa.int32()),
        ("num_text_bytes", pa.int32()),
        ("language", pa.string()),
        ("source", pa.string()),
        ("recording_id", pa.string()),
        ("speaker_id", pa.string()),
        ("level_dbfs", pa.float32()),
        ("snr_db", pa.float32()),
        ("codec", pa.string()),
    ]
)

REJECTED_SCHEMA = pa.schema(
    [
        ("utterance_id", pa.string()),  # what the utterance would have been called
        ("recording_id", pa.string()),
        ("source", pa.string()),
        ("start_s", pa.float64()),  # null: the whole recording
        ("end_s", pa.float64()),
        ("reason", pa.string()),
        ("detail", pa.string()),
        ("text", pa.string()),  # the transcript, where there is one
    ]
)


@dataclass(frozen=True, slots=True)
class Utterance:
    """One training example: a row of a shard."""

    utterance_id: str
    audio: bytes  # FLAC, 16 kHz, mono
    duration_s: float
    text: str
    language: str  # ISO 639 code
    source: str
    recording_id: str
    speaker_id: str | None
    start_s: float  # within the recording
    end_s: float
    split: str
    num_text_chars: int
    previous_text: str | None
    level_dbfs: float
    clipped_share: float
    snr_db: float | None
    speech_s: float | None
    judge_wer: float | None
    native_sample_rate: int
    codec: str


@dataclass(frozen=True)
class Corpus:
    """A prepared corpus, opened for reading."""

    path: Path
    manifest: dict[str, Any]

    @classmethod
    def open(cls, path: str | Path) -> "Corpus":
        """Open a folder that `caspi prepare` wrote.

        Raises:
            CorpusError: the folder is not there, is not a corpus, or was written in a format we do not read.
        """
        path = Path(path).expanduser().absolute()
        try:
            manifest = json.loads((path / "manifest.json").read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            state = "not a prepared corpus" if path.is_dir() else "no such folder"
            raise CorpusError(
                f"{path}: {state}: no readable manifest.json; run `caspi prepare RECIPE --output {path}`"
            ) from error
        if manifest.get("schema_version") != SCHEMA_VERSION:
            raise CorpusError(
                f"{path}: schema_version {manifest.get('schema_version')}; "
                f"this Caspi reads {SCHEMA_VERSION}: prepare it again"
            )
        return cls(path, manifest)

    @property
    def fingerprint(self) -> str:
        """A hash over every utterance's id, audio and text: two corpora with the same one are the same."""
        return str(self.manifest["fingerprint"])

    @cached_property
    def utterances(self) -> pa.Table:
        """The length index of all splits, in shard order (INDEX_SCHEMA)."""
        return pq.read_table(self.path / "utterances.parquet")

    def index(self, split: str) -> pa.Table:
        """The length index of one split, in shard order.

        Raises:
            CorpusError: the split does not exist or holds no utterance.
        """
        if split not in SPLITS:
            raise CorpusError(f"split {split!r}; expected one of {', '.join(SPLITS)}")
        index = self.utterances.filter(pc.equal(self.utterances["split"], split))
        if not len(index):
            remedy = (
                "lower data.splits.validation and data.splits.test"
                if split == "train"
                else f"raise data.splits.{split}"
            )
            raise CorpusError(f"{self.path}: its {split} split is empty; {remedy}, or give a source `split: {split}`")
        return index

    def shards(self, split: str) -> list[Path]:
        """The shards of one split that hold utterances, in order."""
        return [self.path / shard for shard in pc.unique(self.index(split)["shard"]).to_pylist()]

    def read_rows(self, shard: str | Path, rows: Sequence[int]) -> list[Utterance]:
        """The utterances at `rows` of a shard, in the order asked for. Only the row groups that hold them are read.

        `shard` is a path as in the index, or as `shards` gives it.
        """
        with pq.ParquetFile(self.path / shard, memory_map=True) as file:
            sizes = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
            starts = np.cumsum([0, *sizes])
            groups = np.searchsorted(starts, np.asarray(rows, np.int64), side="right") - 1
            found: dict[int, Utterance] = {}
            for group in np.unique(groups):
                wanted = [row for row, place in zip(rows, groups, strict=True) if place == group]
                table = file.read_row_group(group, columns=SHARD_SCHEMA.names, use_threads=False)
                picked = table.take([row - int(starts[group]) for row in wanted]).to_pylist()
                found.update(zip(wanted, (Utterance(**values) for values in picked), strict=True))
        return [found[row] for row in rows]

    def iter_utterances(self, split: str) -> Iterator[Utterance]:
        """The utterances of a split, in shard order, a row group in memory at a time."""
        for shard in self.shards(split):
            with pq.ParquetFile(shard, memory_map=True) as file:
                for batch in file.iter_batches(32, columns=SHARD_SCHEMA.names, use_threads=False):
                    yield from (Utterance(**values) for values in batch.to_pylist())

    def read_table(self, split: str, columns: Sequence[str]) -> pa.Table:
        """Some columns of a split, in shard order."""
        return pa.concat_tables(pq.read_table(shard, columns=list(columns)) for shard in self.shards(split))
