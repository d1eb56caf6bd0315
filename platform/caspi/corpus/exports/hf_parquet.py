"""Parquet as the Hugging Face hub stores speech: `datasets.load_dataset(FOLDER)` finds the splits and an Audio column.

data/train-00000-of-00003.parquet     audio: struct<bytes, path>, and our columns by their own names
"""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from caspi.audio import SAMPLE_RATE
from caspi.corpus.exports import rows
from caspi.corpus.format import SHARD_SCHEMA, Utterance

# The hub's viewer reads a row group at a time and likes them small; so does memory.
_MAX_ROWS_PER_GROUP = 100
_MAX_BYTES_PER_GROUP = 32 * 2**20

# What `datasets` calls Arrow's types.
_DTYPES = {
    pa.string(): "string",
    pa.binary(): "binary",
    pa.bool_(): "bool",
    pa.int32(): "int32",
    pa.int64(): "int64",
    pa.float32(): "float32",
    pa.float64(): "float64",
}

_LIGHT_FIELDS = [SHARD_SCHEMA.field(name) for name in rows.LIGHT_COLUMNS]
_AUDIO = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def hub_schema() -> pa.Schema:
    """The columns, with the features in the metadata by which `datasets` knows that bytes are sound."""
    features = {
        "audio": {"sampling_rate": SAMPLE_RATE, "_type": "Audio"},
        **{field.name: {"dtype": _DTYPES[field.type], "_type": "Value"} for field in _LIGHT_FIELDS},
    }
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    return pa.schema([("audio", _AUDIO), *_LIGHT_FIELDS], metadata=metadata)


def write_split(folder: Path, split: str, utterances: Iterable[Utterance]) -> None:
    """Write data/`split`-00000-of-000NN.parquet."""
    folder = folder / "data"
    folder.mkdir(exist_ok=True)
    written: list[Path] = []
    for numbered in rows.in_shards(utterances):
        written.append(folder / f"{split}-{len(written):05d}.parquet")
        with _open(written[-1]) as writer:
            for group in _groups(split, numbered):
                writer.write_table(pa.Table.from_pylist(group, writer.schema), row_group_size=len(group))
    # How many there are is known only now.
    for shard in written:
        shard.rename(shard.with_stem(f"{shard.stem}-of-{len(written):05d}"))


def _open(path: Path) -> pq.ParquetWriter:
    return pq.ParquetWriter(
        path,
        hub_schema(),
        compression={"audio.bytes": "NONE", "audio.path": "ZSTD", **dict.fromkeys(rows.LIGHT_COLUMNS, "ZSTD")},
        use_dictionary=["language", "source", "split", "codec"],
        write_page_index=True,
    )


def _groups(split: str, numbered: Iterable[tuple[int, Utterance]]) -> Iterator[list[dict[str, Any]]]:
    """Rows for one row group each."""
    group: list[dict[str, Any]] = []
    num_bytes = 0
    for number, utterance in numbered:
        # `path` is only a name; tools look at its end to know the format.
        audio = {"bytes": utterance.audio, "path": f"{split}-{number:08d}.flac"}
        group.append({"audio": audio} | {name: getattr(utterance, name) for name in rows.LIGHT_COLUMNS})
        num_bytes += len(utterance.audio)
        if len(group) >= _MAX_ROWS_PER_GROUP or num_bytes >= _MAX_BYTES_PER_GROUP:
            yield group
            group, num_bytes = [], 0
    if group:
        yield group
