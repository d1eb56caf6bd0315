"""The ledger: what became of every row, as columns of numbers. All that the driver holds of a corpus while it is made.

Each chunk has a ledger of its own on disk, with a row for every outcome (LEDGER_SCHEMA). `Ledger` gathers the numbers
of all of them: 97 bytes an outcome, so that a hundred million fit into the memory of one machine. Words (ids, details)
stay on disk, and are read once more where they are written.
"""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from caspi.audio import SAMPLE_RATE
from caspi.corpus.format import SPLITS

_WORD = pa.dictionary(pa.int32(), pa.string())

LEDGER_SCHEMA = pa.schema(
    [
        ("row", pa.int32()),  # the input row, by its place in the chunk
        ("segment", pa.int32()),  # the outcome's place among those of its row
        ("utterance_id", pa.string()),
        ("recording_id", pa.string()),
        ("source", _WORD),
        ("start_s", pa.float64()),
        ("end_s", pa.float64()),
        ("reason", _WORD),  # null: kept
        ("detail", pa.string()),
        ("text", pa.string()),  # of a refusal
        ("example", pa.binary()),  # MP3 of a few refusals
        # Of what was kept:
        ("split", _WORD),
        ("num_samples", pa.int32()),
        ("shuffle_key", pa.int64()),
        ("id_digest", pa.binary(16)),
        ("recording_digest", pa.binary(8)),
        ("text_digest", pa.binary(16)),
        ("audio_digest", pa.binary(16)),
        ("file", _WORD),  # where its audio waits: a part of the stage, or a shard of the corpus that is updated
        ("file_row", pa.int32()),
        ("judge_wer", pa.float32()),  # what the model of data.meaning thinks of it; null without one
    ]
)

_KEPT = -1

_DTYPE = np.dtype(
    [
        ("chunk", np.int32),
        ("entry", np.int32),  # its place in the chunk's ledger
        ("row", np.int32),
        ("source", np.int16),
        ("reason", np.int16),  # _KEPT, or a place in `reasons`
        ("split", np.int8),  # place in SPLITS
        ("num_samples", np.int32),
        ("shuffle_key", np.int64),
        ("id", np.uint64, 2),
        ("recording", np.uint64),
        ("text", np.uint64, 2),
        ("audio", np.uint64, 2),
        ("file", np.int32),
        ("file_row", np.int32),
        ("judge_wer", np.float32),  # NaN: none
    ]
)


class Ledger:
    """The outcomes of all chunks, in the order of the plan: chunk by chunk, row by row, segment by segment."""

    def __init__(self) -> None:
        # One array a column: sorting one of them must not drag the others through the caches.
        self.columns = {name: np.zeros((0, *_DTYPE[name].shape), _DTYPE[name].base) for name in _DTYPE.names or ()}
        self.sources = _Codes()
        self.reasons = _Codes()
        self.files = _Codes()
        self._size = 0

    @classmethod
    def gather(cls, tables: Iterable[pa.Table]) -> "Ledger":
        """From the chunks' ledgers, in the order of the plan."""
        ledger = cls()
        for chunk, table in enumerate(tables):
            ledger._append(chunk, table)
        ledger._resize(ledger._size)
        return ledger

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, column: str) -> np.ndarray:
        return self.columns[column]

    @property
    def is_kept(self) -> np.ndarray:
        """(num_outcomes,) bool."""
        kept: np.ndarray = self["reason"] == _KEPT
        return kept

    def is_kept_at(self, places: np.ndarray) -> np.ndarray:
        """(num_places,) bool."""
        kept: np.ndarray = self["reason"][places] == _KEPT
        return kept

    def refuse(self, places: np.ndarray, reason: str) -> None:
        """Refuse kept outcomes after all."""
        if len(places):
            self["reason"][places] = self.reasons[reason]

    def num_rows(self, places: np.ndarray) -> int:
        """How many input rows these outcomes, in order, belong to."""
        if not len(places):
            return 0
        chunk, row = self["chunk"][places], self["row"][places]
        return 1 + int(np.count_nonzero((chunk[1:] != chunk[:-1]) | (row[1:] != row[:-1])))

    def _append(self, chunk: int, table: pa.Table) -> None:
        table = table.combine_chunks()
        here = slice(self._size, self._size + len(table))
        self._size = here.stop
        columns = self.columns
        if here.stop > len(columns["chunk"]):
            self._resize(here.stop * 5 // 4)
        columns["chunk"][here] = chunk
        columns["entry"][here] = np.arange(len(table))
        columns["source"][here] = self.sources.translate(table["source"])
        columns["reason"][here] = self.reasons.translate(table["reason"])
        columns["split"][here] = _translate(table["split"], {split: place for place, split in enumerate(SPLITS)})
        columns["file"][here] = self.files.translate(table["file"])
        for name in ("row", "num_samples", "shuffle_key", "file_row"):
            columns[name][here] = table[name].fill_null(0).to_numpy()
        columns["judge_wer"][here] = table["judge_wer"].to_numpy()
        for name in ("id", "recording", "text", "audio"):
            columns[name][here] = _words_of(table[f"{name}_digest"]).reshape(columns[name][here].shape)

    def _resize(self, num_outcomes: int) -> None:
        """In place where the system can (`mremap`): no copy of a column stands beside it."""
        for column in self.columns.values():
            column.resize((num_outcomes, *column.shape[1:]), refcheck=False)


class _Codes(dict[str, int]):
    """Words and the numbers that stand for them, in the order in which they came."""

    def __missing__(self, word: str) -> int:
        self[word] = code = len(self)
        return code

    def translate(self, column: pa.ChunkedArray) -> np.ndarray:
        return _translate(column, self)

    @property
    def words(self) -> list[str]:
        return list(self)


def _translate(column: pa.ChunkedArray, codes: dict[str, int]) -> np.ndarray:
    """A dictionary column as our codes; -1 for null."""
    if not len(column):
        return np.zeros(0, np.int64)
    array = column.chunk(0)
    table = np.array([*(codes[word] for word in array.dictionary.to_pylist()), -1])
    return table[array.indices.fill_null(len(table) - 1).to_numpy()]


def _words_of(column: pa.ChunkedArray) -> np.ndarray:
    """A column of fixed-size binary as 64-bit words, row after row; nulls are whatever lies there."""
    if not len(column):
        return np.zeros(0, np.uint64)
    array = column.chunk(0)
    width = array.type.byte_width
    start = array.offset * width
    return np.frombuffer(array.buffers()[1], np.uint8)[start : start + len(array) * width].view(np.uint64)


def by_chunk(ledger: Ledger, places: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Ordered places, chunk by chunk."""
    chunks = ledger["chunk"][places]
    borders = np.flatnonzero(chunks[1:] != chunks[:-1]) + 1
    for start, stop in zip([0, *borders], [*borders, len(places)], strict=True):
        if start < stop:
            yield int(chunks[start]), places[start:stop]


# --- what only the whole can tell -------------------------------------------------------------------------------------


def refuse_repetitions(ledger: Ledger, *, refuse_audio: bool) -> None:
    """Refuse all but the first utterance of each id, and, if told, of each sound."""
    kept = np.flatnonzero(ledger.is_kept)
    ledger.refuse(kept[_repeats(ledger["id"][kept])[0]], "duplicate_id")
    if refuse_audio:
        kept = np.flatnonzero(ledger.is_kept)
        again, first = _repeats(ledger["audio"][kept])
        same_text = (ledger["text"][kept[again]] == ledger["text"][kept[first]]).all(axis=1)
        ledger.refuse(kept[again[same_text]], "duplicate")
        ledger.refuse(kept[again[~same_text]], "duplicate_audio")


def refuse_two_sided(ledger: Ledger) -> None:
    """Where a recording has utterances in more than one split, keep those of the rarest use: test, then validation.

    A split drawn by recording never does this; a source's own split, or one by speaker, may.
    """
    kept = np.flatnonzero(ledger.is_kept)
    if not len(kept):
        return
    order = np.argsort(ledger["recording"][kept], kind="stable")
    recordings, splits = ledger["recording"][kept[order]], ledger["split"][kept[order]]
    starts = np.flatnonzero(np.append(True, recordings[1:] != recordings[:-1]))
    last = np.maximum.reduceat(splits, starts)  # SPLITS are in the order train, validation, test
    if (last == np.minimum.reduceat(splits, starts)).all():
        return
    of_recording = np.repeat(last, np.diff(np.append(starts, len(order))))
    ledger.refuse(kept[order[splits != of_recording]], "recording_on_two_sides")


def _repeats(digests: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Places of the digests, (n, 2) uint64, that came before, and where each came first."""
    nothing = np.zeros(0, np.int64)
    if len(digests) < 2:
        return nothing, nothing
    order = np.argsort(digests[:, 0], kind="stable")
    same = digests[order[1:], 0] == digests[order[:-1], 0]
    if not same.any():
        return nothing, nothing
    # Few are left: those whose first half is not alone. Among them the whole digest decides.
    candidates = np.unique(np.concatenate([order[1:][same], order[:-1][same]]))
    _, first, inverse = np.unique(digests[candidates], axis=0, return_index=True, return_inverse=True)
    firsts = candidates[first[inverse.reshape(-1)]]
    again = candidates != firsts
    return candidates[again], firsts[again]


# --- the order of the corpus ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Shard:
    """A file of the corpus that is to be written: a range of the order."""

    path: str  # relative to the corpus
    start: int
    stop: int


def order_kept(ledger: Ledger) -> np.ndarray:
    """Places of what was kept, split by split, shuffled within each."""
    kept = np.flatnonzero(ledger.is_kept)
    rank = ledger["split"][kept].astype(np.uint64) << np.uint64(62)
    return kept[np.argsort(rank | (ledger["shuffle_key"][kept].astype(np.uint64) >> np.uint64(1)), kind="stable")]


def cut_shards(ledger: Ledger, order: np.ndarray, max_duration_s: float) -> list[Shard]:
    """Cut the order into shards of at most `max_duration_s`, or one utterance; those of a split are equally long."""
    splits = ledger["split"][order]
    ends = np.cumsum(ledger["num_samples"][order], dtype=np.int64)
    bound = round(max_duration_s * SAMPLE_RATE)
    shards = []
    for code, split in enumerate(SPLITS):
        start, stop = (int(place) for place in np.searchsorted(splits, [code, code + 1]))
        number = 0
        while start < stop:
            before = int(ends[start - 1]) if start else 0
            left = int(ends[stop - 1]) - before
            share = -(-left // -(-left // bound))
            end = max(start + 1, int(np.searchsorted(ends[:stop], before + share, side="right")))
            shards.append(Shard(f"{split}/shard-{number:05d}.parquet", start, end))
            start, number = end, number + 1
    return shards


def fingerprint(ledger: Ledger, order: np.ndarray) -> str:
    """A hash over id, split, text and audio of every utterance, in order; how they are cut into shards is no matter."""
    digest = hashlib.sha256()
    for start in range(0, len(order), 2**20):
        places = order[start : start + 2**20]
        rows = [
            ledger[name][places].view(np.uint8).reshape(len(places), -1) for name in ("id", "split", "text", "audio")
        ]
        digest.update(np.concatenate(rows, axis=1).tobytes())
    return digest.hexdigest()


# --- the manifest's counts --------------------------------------------------------------------------------------------


def count(ledger: Ledger) -> dict[str, Any]:
    """The manifest's numbers. `num_recordings` are input rows; a row without any utterance is a rejected recording."""
    is_kept = ledger.is_kept
    kept = np.flatnonzero(is_kept)
    refused = np.bincount(ledger["reason"][~is_kept], minlength=len(ledger.reasons))
    num_rows = ledger.num_rows(np.arange(len(ledger)))
    splits, sources = ledger["split"][kept], ledger["source"][kept]
    num_refused = np.bincount(ledger["source"][~is_kept], minlength=len(ledger.sources))
    return {
        "num_recordings": num_rows,
        "num_recordings_rejected": num_rows - ledger.num_rows(kept),
        "num_utterances": len(kept),
        "hours": _hours(ledger, kept),
        "rejected_by_reason": {
            word: int(refused[code]) for word, code in sorted(ledger.reasons.items()) if refused[code]
        },
        "splits": {split: _count_part(ledger, kept[splits == code]) for code, split in enumerate(SPLITS)},
        "sources": {
            name: {
                **_count_part(ledger, kept[sources == code]),
                "num_rejected": int(num_refused[code]),
                "splits": {
                    split: _hours(ledger, kept[(sources == code) & (splits == place)])
                    for place, split in enumerate(SPLITS)
                },
            }
            for name, code in ledger.sources.items()
        },
    }


def _count_part(ledger: Ledger, places: np.ndarray) -> dict[str, Any]:
    return {
        "num_utterances": len(places),
        "hours": _hours(ledger, places),
        "num_recordings": ledger.num_rows(places),
    }


def _hours(ledger: Ledger, places: np.ndarray) -> float:
    return round(int(ledger["num_samples"][places].sum(dtype=np.int64)) / SAMPLE_RATE / 3600, 6)
