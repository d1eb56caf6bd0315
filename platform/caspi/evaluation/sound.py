"""The sound of evaluated utterances for a report: within the page while it is small, else as files beside it."""

import base64
import logging
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

from caspi.corpus.format import Corpus
from caspi.errors import CorpusError
from caspi.evaluation.results import Results

logger = logging.getLogger(__name__)

# Base64 makes 32 MiB of it. MLflow shows pages of up to 50 MiB, and the texts of 10,000 utterances are 6.
MAX_EMBEDDED_BYTES = 24 * 2**20

_ROWS_AT_ONCE = 64


@dataclass(frozen=True, slots=True)
class Sound:
    """Which utterances can be heard, and how."""

    places: Mapping[str, int] = field(default_factory=dict)
    """By utterance id the number that its sound goes by."""
    embedded: Mapping[int, str] = field(default_factory=dict)
    """FLAC in base64 by number; empty where it lies beside the page."""
    folder: str = ""
    """Where it lies beside the page, as 00000.flac and so on; empty where it is in the page."""


def collect_sound(results: Results, page: Path) -> Sound:
    """The sound of what was evaluated, for a report at `page`.

    It comes from the corpus that metrics.json names. Where that has gone or changed, or was none, there is no sound.
    More than MAX_EMBEDDED_BYTES goes as the corpus has it into a folder beside the page, PAGE_audio, which is replaced.
    """
    folder = page.with_name(f"{page.stem}_audio")
    shutil.rmtree(folder, ignore_errors=True)
    corpus = _find_corpus(results.metrics)
    if corpus is None:
        return Sound()
    places: dict[str, int] = {}
    held: dict[int, bytes] = {}
    held_bytes = 0
    for place, utterance_id, encoded in _read(results, corpus):
        places[utterance_id] = place
        held[place] = encoded
        held_bytes += len(encoded)
        if held_bytes > MAX_EMBEDDED_BYTES:
            _store(folder, held)
            held = {}
    if held_bytes > MAX_EMBEDDED_BYTES:
        return Sound(places, folder=folder.name)
    return Sound(places, {place: base64.b64encode(encoded).decode() for place, encoded in held.items()})


def _find_corpus(metrics: Mapping[str, Any]) -> Corpus | None:
    if not metrics.get("corpus"):
        return None
    try:
        corpus = Corpus.open(metrics["corpus"])
    except CorpusError as error:
        logger.warning("the report is without sound: %s", error)
        return None
    if corpus.fingerprint != metrics["corpus_fingerprint"]:
        logger.warning("the report is without sound: %s was prepared anew since", corpus.location)
        return None
    return corpus


def _read(results: Results, corpus: Corpus) -> Iterator[tuple[int, str, bytes]]:
    """Place, id and FLAC of every utterance that lies in the corpus and could be decoded."""
    columns = results.utterances.select(["utterance_id", "shard", "row", "error"]).to_pylist()
    known = [
        (row["shard"], row["row"], place) for place, row in enumerate(columns) if row["shard"] and not row["error"]
    ]
    for shard, group in groupby(sorted(known), key=lambda each: each[0]):
        rows = list(group)
        for start in range(0, len(rows), _ROWS_AT_ONCE):
            some = rows[start : start + _ROWS_AT_ONCE]
            for (_, _, place), utterance in zip(
                some, corpus.read_rows(shard, [row for _, row, _ in some]), strict=True
            ):
                yield place, utterance.utterance_id, utterance.audio


def _store(folder: Path, sounds: Mapping[int, bytes]) -> None:
    folder.mkdir(exist_ok=True)
    for place, encoded in sounds.items():
        (folder / f"{place:05d}.flac").write_bytes(encoded)
