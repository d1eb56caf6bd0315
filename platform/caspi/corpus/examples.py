"""A few refusals of each reason, to listen to in the report. Chosen by hash, so the same ones each time."""

import hashlib
import heapq
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from caspi import audio
from caspi.corpus.format import LISTEN_S
from caspi.corpus.ledger import Ledger, by_chunk
from caspi.corpus.report import Example
from caspi.corpus.shards import details_of
from caspi.corpus.staging import Stage, read_arrow

_PER_REASON = 3


@dataclass(frozen=True, slots=True)
class Chosen:
    """A refusal that is shown, and where its row stands."""

    chunk: int
    entry: int
    example: Example


def choose(ledger: Ledger, read_chunk: Callable[[int], pa.Table], stage: Stage) -> list[Chosen]:
    """Up to three of each reason, by reason; those that one can listen to come first.

    `read_chunk` gives a chunk's own ledger.
    """
    found: dict[str, list[tuple[int, int, int, int]]] = {}
    for reason, candidate in _candidates(ledger, read_chunk):
        best = found.setdefault(reason, [])
        # A heap of the three smallest has its largest on top: hence the signs.
        is_silent, number, chunk, place = candidate
        heapq.heappush(best, (-is_silent, -number, -chunk, -place))
        if len(best) > _PER_REASON:
            heapq.heappop(best)
    return [
        _make(ledger, read_chunk, stage, reason, -chunk, -place)
        for reason in sorted(found)
        for _, _, chunk, place in sorted(found[reason], reverse=True)
    ]


def _candidates(
    ledger: Ledger, read_chunk: Callable[[int], pa.Table]
) -> Iterator[tuple[str, tuple[int, int, int, int]]]:
    """(reason, (is silent, hash, chunk, place in the ledger)) of refusals. Of those without sound, one a chunk."""
    for chunk, places in by_chunk(ledger, np.flatnonzero(~ledger.is_kept)):
        table = read_chunk(chunk).take(pa.array(ledger["entry"][places]))
        # What the whole corpus refused has its sound in the stage.
        has_sound = (pc.is_valid(table["example"]).to_numpy()) | pc.is_null(table["reason"]).to_numpy()
        ids = table["utterance_id"].to_pylist()
        shown: set[str] = set()
        for position in np.argsort(~has_sound, kind="stable").tolist():
            reason = ledger.reasons.words[ledger["reason"][places[position]]]
            if has_sound[position] or reason not in shown:
                shown.add(reason)
                yield reason, (int(not has_sound[position]), _hash(ids[position]), chunk, int(places[position]))


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


def _make(
    ledger: Ledger, read_chunk: Callable[[int], pa.Table], stage: Stage, reason: str, chunk: int, place: int
) -> Chosen:
    entry = int(ledger["entry"][place])
    row = read_chunk(chunk).slice(entry, 1).to_pylist()[0]
    sound, text = row["example"], row["text"]
    if row["reason"] is None:
        utterance = read_arrow(stage.path / row["file"]).slice(row["file_row"], 1).to_pylist()[0]
        decoded = audio.decode(utterance["audio"], source=row["utterance_id"])
        sound = audio.encode_mp3(decoded.samples[: round(LISTEN_S * decoded.sample_rate)])
        text = utterance["text"]
    detail = row["detail"] or details_of(reason)
    return Chosen(chunk, entry, Example(reason, detail, row["recording_id"], row["source"], text, sound))
