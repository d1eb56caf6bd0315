"""Bringing a corpus up to date: its own shards stand in for the parts of chunks that did not change."""

from collections.abc import Collection, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from caspi.corpus.ledger import LEDGER_SCHEMA
from caspi.corpus.staging import Stage, write_arrow


def adopt(corpus: Path, keys: Collection[str], stage: Stage) -> None:
    """Put the ledgers of those chunks into the stage that `corpus` holds already; their audio stays in its shards.

    A corpus that is not there, or has no ledger, gives nothing.
    """
    saved = corpus / "ledger.parquet"
    if not saved.exists():
        return
    wanted = set(keys)
    for key, table in _chunks(saved):
        if key in wanted and not stage.ledger(key).exists():
            files = pc.binary_join_element_wise(str(corpus), table["file"].cast(pa.string()), "/")
            place = table.schema.get_field_index("file")
            table = table.set_column(place, "file", files.dictionary_encode()).select(LEDGER_SCHEMA.names)
            table = table.cast(LEDGER_SCHEMA)
            write_arrow(table, stage.ledger(key))
            write_arrow(table, stage.judged(key))  # what a model thought of it is among its columns


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
