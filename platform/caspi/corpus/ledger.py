"""The ledger: one light row for every outcome, kept or refused. All that the driver holds of a corpus while it is made.

From it come the order of the shards, the length index, the rejected rows and the manifest; so their counts agree.
"""

import hashlib
from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from caspi.corpus.format import INDEX_SCHEMA, REJECTED_SCHEMA, SPLITS

LEDGER_SCHEMA = pa.schema(
    [
        ("row", pa.int64()),  # the input row, in the order of the sources
        ("segment", pa.int32()),  # the outcome's place among those of its row
        ("utterance_id", pa.string()),
        ("recording_id", pa.string()),
        ("speaker_id", pa.string()),
        ("source", pa.string()),
        ("start_s", pa.float64()),
        ("end_s", pa.float64()),
        ("reason", pa.string()),  # null: kept
        ("detail", pa.string()),
        # Of what was kept:
        ("split", pa.string()),
        ("shuffle_key", pa.int64()),
        ("duration_s", pa.float64()),
        ("num_text_chars", pa.int32()),
        ("num_text_bytes", pa.int32()),
        ("digest", pa.binary()),
        ("part", pa.string()),  # where its audio waits in the stage
        ("part_row", pa.int32()),
    ]
)


def refuse_duplicates(ledger: pa.Table) -> pa.Table:
    """The ledger in the order of its rows, with all but the first utterance of each id refused as `duplicate_id`."""
    ledger = ledger.sort_by([("row", "ascending"), ("segment", "ascending")])
    kept = np.flatnonzero(pc.is_null(ledger["reason"]).to_numpy())
    ids = ledger["utterance_id"].take(pa.array(kept)).combine_chunks()
    codes = ids.dictionary_encode().indices.to_numpy()
    _, first = np.unique(codes, return_index=True)
    again = np.zeros(len(ledger), bool)
    again[kept] = True
    again[kept[first]] = False
    if not again.any():
        return ledger
    again = pa.array(again)
    for column, value in (("reason", "duplicate_id"), ("detail", "another utterance before it has the same id")):
        place = ledger.schema.get_field_index(column)
        ledger = ledger.set_column(place, column, pc.if_else(again, pa.scalar(value), ledger[column]))
    return ledger


def order_kept(ledger: pa.Table) -> pa.Table:
    """What was kept, split by split, shuffled within each."""
    kept = ledger.filter(pc.is_null(ledger["reason"]))
    rank = pc.index_in(kept["split"], pa.array(SPLITS))
    kept = kept.append_column("rank", rank)
    return kept.sort_by([("rank", "ascending"), ("shuffle_key", "ascending"), ("utterance_id", "ascending")])


def assign_shards(kept: pa.Table, max_duration_s: float) -> pa.Table:
    """Cut ordered utterances into shards; adds `shard` and `shard_row`.

    A shard holds at most `max_duration_s`, or one utterance.
    """
    shards, rows = [], []
    split, number, row, filled = None, 0, 0, 0.0
    for next_split, duration_s in zip(kept["split"].to_pylist(), kept["duration_s"].to_numpy(), strict=True):
        if next_split != split:
            split, number, row, filled = next_split, 0, 0, 0.0
        elif filled + duration_s > max_duration_s:
            number, row, filled = number + 1, 0, 0.0
        shards.append(f"{split}/shard-{number:05d}.parquet")
        rows.append(row)
        row, filled = row + 1, filled + duration_s
    return kept.append_column("shard", pa.array(shards, pa.string())).append_column(
        "shard_row", pa.array(rows, pa.int32())
    )


def length_index(kept: pa.Table) -> pa.Table:
    """utterances.parquet."""
    columns = {field.name: kept["shard_row" if field.name == "row" else field.name] for field in INDEX_SCHEMA}
    return pa.table(columns, schema=INDEX_SCHEMA)


def rejected_rows(ledger: pa.Table) -> pa.Table:
    """rejected.parquet, in the order of the sources."""
    return ledger.filter(pc.is_valid(ledger["reason"])).select(REJECTED_SCHEMA.names).cast(REJECTED_SCHEMA)


def count(ledger: pa.Table, kept: pa.Table) -> dict[str, Any]:
    """The manifest's numbers. `num_recordings` are input rows; a row without any utterance is a rejected recording."""
    rejected = ledger.filter(pc.is_valid(ledger["reason"]))
    num_recordings = pc.count_distinct(ledger["row"]).as_py()
    return {
        "num_recordings": num_recordings,
        "num_recordings_rejected": num_recordings - pc.count_distinct(kept["row"]).as_py(),
        "num_utterances": len(kept),
        "hours": _hours(kept),
        "rejected_by_reason": dict(sorted(Counter(rejected["reason"].to_pylist()).items())),
        "splits": {split: _count_part(kept.filter(pc.equal(kept["split"], split))) for split in SPLITS},
        "sources": {
            name: {
                **_count_part(kept.filter(pc.equal(kept["source"], name))),
                "num_rejected": pc.sum(pc.equal(rejected["source"], name)).as_py() or 0,
            }
            for name in pc.unique(ledger["source"]).to_pylist()
        },
    }


def fingerprint(kept: pa.Table) -> str:
    """A hash over id, split, audio and text of every utterance, in order; how they are cut into shards is no matter."""
    digest = hashlib.sha256()
    for row_digest in kept["digest"].to_pylist():
        digest.update(row_digest)
    return digest.hexdigest()


def _count_part(part: pa.Table) -> dict[str, Any]:
    return {
        "num_utterances": len(part),
        "hours": _hours(part),
        "num_recordings": pc.count_distinct(part["row"]).as_py(),
    }


def _hours(utterances: pa.Table) -> float:
    return round(float(np.sum(utterances["duration_s"].to_numpy())) / 3600, 6)
