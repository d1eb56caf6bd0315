"""Bringing a corpus up to date: its own shards stand in for the parts of chunks that did not change."""

import json
from collections.abc import Collection, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from caspi.corpus.commit import write_text
from caspi.corpus.format import Corpus
from caspi.corpus.ledger import LEDGER_SCHEMA
from caspi.corpus.staging import Stage, write_arrow


def adopt(corpus: Path, keys: Collection[str], stage: Stage) -> None:
    """Put the ledgers of those chunks into the stage that `corpus` holds already; their audio stays in its shards.

    A corpus that is not there, or has no ledger, gives nothing.
    """
    saved = corpus / "ledger.parquet"
    if not saved.exists():
        return
    wanted = {key for key in keys if not stage.ledger(key).exists()}
    known = set(keys)
    found = [key for key in _keys(saved) if key in known]  # those of an interrupted update too
    record = {"fingerprint": Corpus.open(corpus).fingerprint, "keys": found}
    write_text(_record(stage), json.dumps(record))  # before the ledgers: `forget` must know of all of them
    for key, table in _chunks(saved):
        if key in wanted:
            files = pc.binary_join_element_wise(str(corpus), table["file"].cast(pa.string()), "/")
            place = table.schema.get_field_index("file")
            table = table.set_column(place, "file", files.dictionary_encode()).select(LEDGER_SCHEMA.names)
            table = table.cast(LEDGER_SCHEMA)
            write_arrow(table, stage.ledger(key))
            write_arrow(table, stage.judged(key))  # what a model thought of it is among its columns


def forget(corpus: Path, stage: Stage) -> None:
    """Take back what an interrupted update adopted, unless `corpus` is still the one that it adopted from."""
    try:
        record = json.loads(_record(stage).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return
    if (corpus / "manifest.json").exists() and Corpus.open(corpus).fingerprint == record["fingerprint"]:
        return
    for key in record["keys"]:
        stage.ledger(key).unlink(missing_ok=True)
        stage.judged(key).unlink(missing_ok=True)
    _record(stage).unlink()


def _record(stage: Stage) -> Path:
    return stage.path / "adopted.json"


def _keys(saved: Path) -> list[str]:
    keys: list[str] = pc.unique(pq.read_table(saved, columns=["chunk"])["chunk"]).to_pylist()
    return keys


def _chunks(saved: Path) -> Iterator[tuple[str, pa.Table]]:
    """The chunks of ledger.parquet, one after the other. None lies in two row groups."""
    with pq.ParquetFile(saved) as file:
        for group in range(file.num_row_groups):
            table = file.read_row_group(group)
            runs = pc.run_end_encode(table["chunk"].combine_chunks())
            start = 0
            for key, stop in zip(runs.values.to_pylist(), runs.run_ends.to_pylist(), strict=True):
                yield key, table.slice(start, stop - start)
                start = stop
