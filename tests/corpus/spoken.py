"""A corpus of noise, written without `prepare`, as it would write it."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from caspi import audio
from caspi.corpus.format import INDEX_SCHEMA, SCHEMA_VERSION, SHARD_SCHEMA, Corpus


def write(folder: Path, *, num_shards: int, rows_per_shard: int = 4, duration_s: float = 0.5) -> Corpus:
    """All of it is training material."""
    random = np.random.default_rng(3)
    index = []
    (folder / "train").mkdir(parents=True)
    for number in range(num_shards):
        name = f"train/shard-{number:05d}.parquet"
        rows = [
            _row(f"utterance-{number}-{place}", duration_s, random.normal(0, 0.1, int(duration_s * audio.SAMPLE_RATE)))
            for place in range(rows_per_shard)
        ]
        pq.write_table(
            pa.Table.from_pylist(rows, SHARD_SCHEMA), folder / name, row_group_size=2, compression={"audio": "NONE"}
        )
        index += [
            {**{key: row.get(key) for key in INDEX_SCHEMA.names}, "shard": name, "row": place, "num_text_bytes": 8}
            for place, row in enumerate(rows)
        ]
    pq.write_table(pa.Table.from_pylist(index, INDEX_SCHEMA), folder / "utterances.parquet")
    manifest = {
        "schema_version": SCHEMA_VERSION,
        "fingerprint": "0123abcd",
        "num_utterances": len(index),
        "language": "he",
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return Corpus.open(folder)


def _row(name: str, duration_s: float, samples: np.ndarray) -> dict:
    return {
        "utterance_id": name,
        "audio": audio.encode_flac(samples.astype(np.float32)),
        "duration_s": duration_s,
        "text": f"שלום {name[-1]}",
        "language": "he",
        "source": "noise",
        "recording_id": name,
        "start_s": 0.0,
        "end_s": duration_s,
        "split": "train",
        "num_text_chars": 6,
    }
