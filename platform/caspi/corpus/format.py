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

import contextlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from caspi import settings
from caspi.errors import CorpusError

if TYPE_CHECKING:
    from caspi.corpus.mirror import Mirror

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
    """A prepared corpus, opened for reading. It may be sent to another machine."""

    path: Path  # where it lies; of a corpus in an object store, where what was read of it is kept
    manifest: dict[str, Any]
    mirror: "Mirror | None" = None  # of a corpus in an object store

    @classmethod
    def open(cls, location: str | Path) -> "Corpus":
        """Open a folder that `caspi prepare` wrote, or its copy in an object store, by its URL.

        Raises:
            CorpusError: it is not there, is not a corpus, or was written in a format we do not read.
        """
        if "://" in str(location):
            return cls._open_url(str(location).rstrip("/"))
        path = Path(location).expanduser().absolute()
        try:
            manifest = json.loads((path / "manifest.json").read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            state = "not a prepared corpus" if path.is_dir() else "no such folder"
            raise CorpusError(
                f"{path}: {state}: no readable manifest.json; run `caspi prepare RECIPE --output {path}`"
            ) from error
        _check_version(path, manifest)
        return cls(path, manifest)

    @classmethod
    def _open_url(cls, url: str) -> "Corpus":
        from caspi.corpus.mirror import Mirror, identify  # they read by means of the sources, which know this module

        manifest, version = identify(url)
        _check_version(url, manifest)
        mirror = Mirror(url, version, settings.read().corpora_folder)
        mirror.open()
        return cls(mirror.folder, manifest, mirror)

    def reopen(self) -> "Corpus":
        """The same corpus on this machine, when another one has opened it.

        Raises:
            CorpusError: as `open`. Of a corpus in an object store when something is read.
        """
        return self if self.mirror else Corpus.open(self.path)

    def __reduce__(self) -> tuple[Any, ...]:
        return Corpus, (self.path, self.manifest, self.mirror)  # without the index, where it has been read

    @property
    def location(self) -> str:
        """What `open` takes: the folder, or the URL."""
        return self.mirror.url if self.mirror else str(self.path)

    @property
    def fingerprint(self) -> str:
        """A hash over every utterance's id, audio and text: two corpora with the same one are the same."""
        return str(self.manifest["fingerprint"])

    @cached_property
    def utterances(self) -> pa.Table:
        """The length index of all splits, in shard order (INDEX_SCHEMA)."""
        return pq.read_table(self.file("utterances.parquet"))

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
            raise CorpusError(
                f"{self.location}: its {split} split is empty; {remedy}, or give a source `split: {split}`"
            )
        return index

    def shard_names(self, split: str) -> list[str]:
        """The shards of one split that hold utterances, in order, as the index calls them."""
        return list(pc.unique(self.index(split)["shard"]).to_pylist())

    def shards(self, split: str) -> list[Path]:
        """The same as paths below `path`."""
        return [self.path / shard for shard in self.shard_names(split)]

    def file(self, name: str) -> Path:
        """A file of the corpus that is no shard."""
        return self.mirror.file(name) if self.mirror else self.path / name

    def shard(self, name: str) -> contextlib.AbstractContextManager[Path]:
        """Within the block a shard is a file on this machine. What is open then can be read behind the block too.

        Raises:
            StorageError: it lies in an object store, and cannot be brought here.
        """
        return self.mirror.shard(name) if self.mirror else contextlib.nullcontext(self.path / name)

    def tables(self, shards: Sequence[str], columns: Sequence[str]) -> Iterator[pa.Table]:
        """Some columns of shards, one shard after the other; of an object store nothing else is read.

        Raises:
            StorageError: as `shard`.
        """
        if self.mirror:
            return self.mirror.tables(shards, columns)
        return (pq.read_table(self.path / shard, columns=list(columns)) for shard in shards)

    def read_rows(self, shard: str, rows: Sequence[int]) -> list[Utterance]:
        """The utterances at `rows` of a shard, in the order asked for. Only the row groups that hold them are read.

        Raises:
            StorageError: as `shard`.
        """
        with self.shard(shard) as path, pq.ParquetFile(path, memory_map=True) as file:
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
        for shard in self.shard_names(split):
            with self.shard(shard) as path, pq.ParquetFile(path, memory_map=True) as file:
                for batch in file.iter_batches(32, columns=SHARD_SCHEMA.names, use_threads=False):
                    yield from (Utterance(**values) for values in batch.to_pylist())

    def read_table(self, split: str, columns: Sequence[str]) -> pa.Table:
        """Some columns of a split, in shard order."""
        return pa.concat_tables(self.tables(self.shard_names(split), columns))


def _check_version(location: object, manifest: dict[str, Any]) -> None:
    if manifest.get("schema_version") != SCHEMA_VERSION:
        raise CorpusError(
            f"{location}: schema_version {manifest.get('schema_version')}; "
            f"this Caspi reads {SCHEMA_VERSION}: prepare it again"
        )
