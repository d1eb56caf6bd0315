"""How long every utterance of a split is, in seconds and in tokens: all that the plan knows of a corpus.

It is written once per run and memory-mapped by every worker, so a hundred million utterances take no memory.

FOLDER/
  durations_s.npy       (num_utterances,) float32
  num_tokens.npy        (num_utterances,) int32: prompt without context, audio, target
  source_codes.npy      (num_utterances,) uint16: places in the list of sources
  gaps_s.npy            (num_utterances,) float32: pause since the one before it, NaN where that is no neighbour
  following_tokens.npy  (num_utterances,) int32: of its text behind its neighbour's and a space; 0 where there is none
  shard_utterances.npy  (num_shards, num_sources) int64
  shard_audio_s.npy     (num_shards, num_sources) float64
  lengths.json          shards, sources, and what was measured with which tokenizer; written last
"""

import hashlib
import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from caspi.audio import SAMPLE_RATE
from caspi.corpus import Corpus
from caspi.corpus.commit import write_text
from caspi.errors import TrainingError
from caspi.model.audio_tokens import FRAMES_PER_CHUNK, HOP, MIN_SAMPLES, TOKENS_PER_CHUNK, tokens_of_frames
from caspi.model.prompt import NO_SPEECH, Prompter
from caspi.text import language_name
from caspi.training.items import spans
from caspi.training.neighbours import NEIGHBOUR_COLUMNS, gaps_s

logger = logging.getLogger(__name__)

_VERSION = 2
_RECORD = "lengths.json"
_ROWS_AT_ONCE = 2**18
_COLUMNS = ["text", "language", "source", "duration_s", *NEIGHBOUR_COLUMNS]
_REST_TOKENS = np.array([tokens_of_frames(frames) for frames in range(FRAMES_PER_CHUNK)])
_ARRAYS = {
    "durations_s": np.float32,
    "num_tokens": np.int32,
    "source_codes": np.uint16,
    "gaps_s": np.float32,
    "following_tokens": np.int32,
    "shard_utterances": np.int64,
    "shard_audio_s": np.float64,
}


@dataclass(frozen=True, eq=False)
class LengthIndex:
    """The lengths of one split, shard by shard. An utterance is known by its position in shard order."""

    shards: tuple[str, ...]  # paths relative to the corpus
    sources: tuple[str, ...]
    durations_s: np.ndarray  # (num_utterances,) float32
    num_tokens: np.ndarray  # (num_utterances,) int32
    source_codes: np.ndarray  # (num_utterances,) uint16
    gaps_s: np.ndarray  # (num_utterances,) float32, NaN where the one before is no neighbour
    following_tokens: np.ndarray  # (num_utterances,) int32
    shard_utterances: np.ndarray  # (num_shards, num_sources) int64
    shard_audio_s: np.ndarray  # (num_shards, num_sources) float64
    num_bare_tokens: int = 0  # of an utterance without audio and without text

    @classmethod
    def of(
        cls,
        durations_s: np.ndarray,
        shard_sizes: Sequence[int],
        *,
        num_tokens: np.ndarray | None = None,
        source_codes: np.ndarray | None = None,
        sources: Sequence[str] = ("speech",),
        gaps_s: np.ndarray | None = None,
        following_tokens: np.ndarray | None = None,
    ) -> "LengthIndex":
        """An index in memory. Without `num_tokens`, utterances have the tokens of their audio and no others; without
        `gaps_s` they have no neighbours."""
        durations_s = np.asarray(durations_s, np.float32)
        if source_codes is None:
            source_codes = np.zeros(len(durations_s), np.uint16)
        if num_tokens is None:
            num_tokens = audio_tokens(durations_s)
        place = np.repeat(np.arange(len(shard_sizes)), shard_sizes) * len(sources) + source_codes
        shape = (len(shard_sizes), len(sources))
        return cls(
            shards=tuple(f"shard-{number:05d}.parquet" for number in range(len(shard_sizes))),
            sources=tuple(sources),
            durations_s=durations_s,
            num_tokens=np.asarray(num_tokens, np.int32),
            source_codes=np.asarray(source_codes, np.uint16),
            gaps_s=np.full(len(durations_s), np.nan, np.float32) if gaps_s is None else np.asarray(gaps_s, np.float32),
            following_tokens=np.zeros(len(durations_s), np.int32) if following_tokens is None else following_tokens,
            shard_utterances=np.bincount(place, minlength=shape[0] * shape[1]).reshape(shape),
            shard_audio_s=np.bincount(place, durations_s, minlength=shape[0] * shape[1]).reshape(shape),
        )

    @classmethod
    def build(cls, corpus: Corpus, prompter: Prompter, folder: Path, *, split: str = "train") -> "LengthIndex":
        """Measure a split into `folder`, one shard in memory at a time; what lies there is used again if it fits.

        Raises:
            CorpusError: the split is empty.
            TrainingError: a shard cannot be read, or is not what the corpus says.
        """
        try:
            return cls.open(folder, corpus, prompter, split=split)
        except TrainingError as error:
            logger.info("measuring lengths: %s", error)
        sizes = shard_sizes(corpus, split)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / _RECORD).unlink(missing_ok=True)
        _Measuring(corpus, prompter, folder, sizes).write(_identity(corpus, prompter, split))
        return cls.open(folder, corpus, prompter, split=split)

    @classmethod
    def open(cls, folder: Path, corpus: Corpus, prompter: Prompter, *, split: str = "train") -> "LengthIndex":
        """Memory-map what `build` wrote.

        Raises:
            TrainingError: it is not there, damaged, or of another corpus or tokenizer.
        """
        try:
            record = json.loads((folder / _RECORD).read_text(encoding="utf-8"))
            arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in _ARRAYS}
        except (OSError, ValueError, EOFError) as error:
            raise TrainingError(f"{folder}: no whole index of lengths: {error}; build it again") from error
        for key, expected in _identity(corpus, prompter, split).items():
            if record.get(key) != expected:
                raise TrainingError(
                    f"{folder}: lengths of {key} {record.get(key)}, expected {expected}; build them again"
                )
        table = (len(record["shards"]), len(record["sources"]))
        num_utterances = int(arrays["shard_utterances"].sum())
        for name, array in arrays.items():
            expected_shape = table if name.startswith("shard_") else (num_utterances,)
            if array.shape != expected_shape:
                raise TrainingError(
                    f"{folder / name}.npy: damaged: shape {array.shape}, expected {expected_shape}; build it again"
                )
        return cls(
            shards=tuple(record["shards"]),
            sources=tuple(record["sources"]),
            num_bare_tokens=record["num_bare_tokens"],
            **arrays,
        )

    @cached_property
    def starts(self) -> np.ndarray:
        """(num_shards + 1,) int64: where each shard's utterances begin, and where the last one's end."""
        return np.concatenate([[0], np.cumsum(self.shard_utterances.sum(1))])

    def __len__(self) -> int:
        return len(self.durations_s)

    def has_neighbours(self) -> bool:
        """Whether any two utterances follow each other in one recording."""
        return any(not np.isnan(self.gaps_s[start:stop]).all() for start, stop in pairwise(self.starts))

    def lengths(self, positions: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Seconds and tokens of clips, each of `counts` neighbours from a position on, with the pauses between them."""
        durations_s = self.durations_s[positions].astype(np.float64)
        num_tokens = self.num_tokens[positions].astype(np.int64)
        joined = np.flatnonzero(counts > 1)
        if len(joined):
            others = spans(positions[joined] + 1, counts[joined] - 1)
            starts = np.cumsum(counts[joined] - 1) - (counts[joined] - 1)
            samples = num_samples(self.durations_s[others]) + num_samples(self.gaps_s[others])
            alone_s = durations_s[joined]
            durations_s[joined] = (num_samples(alone_s) + np.add.reduceat(samples, starts)) / SAMPLE_RATE
            num_tokens[joined] += np.add.reduceat(self.following_tokens[others].astype(np.int64), starts)
            num_tokens[joined] += audio_tokens(durations_s[joined]) - audio_tokens(alone_s)
        return durations_s, num_tokens


def num_samples(durations_s: np.ndarray) -> np.ndarray:
    """Of so many seconds, int64."""
    return np.rint(np.asarray(durations_s, np.float64) * SAMPLE_RATE).astype(np.int64)


def audio_tokens(durations_s: np.ndarray) -> np.ndarray:
    """Audio tokens of clips of so many seconds: `model.num_audio_tokens` for whole arrays, int64."""
    samples = np.maximum(num_samples(durations_s), MIN_SAMPLES)
    chunks, rest = np.divmod(samples // HOP, FRAMES_PER_CHUNK)
    return chunks * TOKENS_PER_CHUNK + _REST_TOKENS[rest]


def shard_sizes(corpus: Corpus, split: str) -> dict[str, int]:
    """Utterances of each shard of a split, in order. Reads two columns of the corpus' index, piece by piece.

    Raises:
        CorpusError: the split does not exist or holds no utterance.
    """
    sizes: dict[str, int] = {}
    with pq.ParquetFile(corpus.file("utterances.parquet")) as file:
        for rows in file.iter_batches(_ROWS_AT_ONCE, columns=["split", "shard"]):
            shards = rows["shard"].filter(pc.equal(rows["split"], split))
            for entry in shards.value_counts().to_pylist():
                sizes[entry["values"]] = sizes.get(entry["values"], 0) + entry["counts"]
    if not sizes:
        corpus.index(split)  # raises, and says what to do
    return sizes


def _identity(corpus: Corpus, prompter: Prompter, split: str) -> dict[str, Any]:
    """What lengths depend on."""
    digest = hashlib.sha256(prompter.tokenizer.backend_tokenizer.to_str().encode())
    digest.update(json.dumps([prompter.prompt(0), prompter.target("", language="Hebrew")]).encode())
    return {"version": _VERSION, "corpus": corpus.fingerprint, "split": split, "tokenizer": digest.hexdigest()}


@dataclass(frozen=True)
class _Measuring:
    """Writes an index from the light columns of the shards."""

    corpus: Corpus
    prompter: Prompter
    folder: Path
    sizes: dict[str, int]

    def write(self, identity: dict[str, Any]) -> None:
        num_utterances = sum(self.sizes.values())
        columns = {
            name: np.lib.format.open_memmap(self.folder / f"{name}.npy", "w+", dtype, (num_utterances,))
            for name, dtype in _ARRAYS.items()
            if not name.startswith("shard_")
        }
        sources: dict[str, int] = {}
        totals = []  # a shard's (utterances, seconds) by source; sources come up on the way
        start = 0
        for table in self._shards():
            codes = self._codes(table["source"], sources)
            durations_s = table["duration_s"].to_numpy()
            here = slice(start, start + len(table))
            columns["durations_s"][here] = durations_s
            columns["source_codes"][here] = codes
            columns["num_tokens"][here] = self._tokens(table, durations_s)
            columns["gaps_s"][here] = gaps = gaps_s(table)
            columns["following_tokens"][here] = self._following_tokens(table, gaps)
            totals.append((np.bincount(codes), np.bincount(codes, durations_s)))
            start = here.stop
        for column in columns.values():
            column.flush()
        for name, place in (("shard_utterances", 0), ("shard_audio_s", 1)):
            rows = np.zeros((len(totals), len(sources)), _ARRAYS[name])
            for row, pair in zip(rows, totals, strict=True):
                row[: len(pair[place])] = pair[place]
            np.save(self.folder / f"{name}.npy", rows)
        record = {
            **identity,
            "num_bare_tokens": self._bare(),
            "sources": list(sources),
            "shards": list(self.sizes),
        }
        write_text(self.folder / _RECORD, json.dumps(record, indent=0, ensure_ascii=False))

    def _shards(self) -> Iterator[pa.Table]:
        tables = self.corpus.tables(list(self.sizes), _COLUMNS)
        for shard, size in self.sizes.items():
            place = f"{self.corpus.location}/{shard}"
            try:
                table = next(tables)
            except (OSError, pa.ArrowException) as error:
                raise TrainingError(f"{place}: damaged shard: {error}; prepare it again") from error
            if len(table) != size:
                raise TrainingError(f"{place}: {len(table)} utterances, the corpus says {size}; prepare it again")
            yield table

    def _codes(self, names: pa.ChunkedArray, sources: dict[str, int]) -> np.ndarray:
        encoded = names.combine_chunks().dictionary_encode()
        places = [sources.setdefault(name, len(sources)) for name in encoded.dictionary.to_pylist()]
        return np.array(places, np.uint16)[encoded.indices.to_numpy()]

    def _tokens(self, table: pa.Table, durations_s: np.ndarray) -> np.ndarray:
        texts = [len(self.prompter.text_ids(text)) for text in table["text"].to_pylist()]
        languages = table["language"].combine_chunks().dictionary_encode()
        bare = [self._bare(language_name(code)) for code in languages.dictionary.to_pylist()]
        return np.array(texts) + np.array(bare)[languages.indices.to_numpy()] + audio_tokens(durations_s)

    def _following_tokens(self, table: pa.Table, gaps: np.ndarray) -> np.ndarray:
        texts, numbers = table["text"], np.zeros(len(table), np.int32)
        for row in np.flatnonzero(~np.isnan(gaps)):
            numbers[row] = len(self.prompter.text_ids(f" {texts[int(row)].as_py()}"))
        return numbers

    def _bare(self, language: str = NO_SPEECH) -> int:
        """Tokens around audio and text."""
        return len(self.prompter.prompt(0)) + len(self.prompter.target("", language=language))
