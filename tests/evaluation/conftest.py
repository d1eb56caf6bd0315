"""A small corpus on disk, written without `prepare`."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from caspi import audio
from caspi.corpus.format import INDEX_SCHEMA, SCHEMA_VERSION, SHARD_SCHEMA, Corpus


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    """Three shards of test utterances. The level of a clip is its number / 100, which is how the double hears it."""
    rows = [make_row(number) for number in range(12)]
    rows[5]["audio"] = b"not audio"
    rows[7]["text"] = "..."  # nothing is said, once punctuation is gone
    return write_corpus(tmp_path / "corpus", [rows[:4], rows[4:8], rows[8:]])


def make_row(number: int) -> dict:
    duration_s = 1.0 + number
    samples = np.full(int(duration_s * audio.SAMPLE_RATE), number / 100, np.float32)
    return {
        "utterance_id": f"utterance-{99 - number}",
        "audio": audio.encode_flac(samples),
        "duration_s": duration_s,
        "text": f"המספר הוא {number}.",
        "language": "he",
        "source": "even" if number % 2 == 0 else "odd",
        "recording_id": f"recording-{number // 2}",
        "speaker_id": None if number else "דנה",
        "start_s": 0.0,
        "end_s": duration_s,
        "split": "test",
        "num_text_chars": 10,
    }


def write_corpus(folder: Path, shards: list[list[dict]]) -> Corpus:
    index = []
    (folder / "test").mkdir(parents=True)
    for number, rows in enumerate(shards):
        name = f"test/shard-{number:05d}.parquet"
        pq.write_table(pa.Table.from_pylist(rows, SHARD_SCHEMA), folder / name, row_group_size=3)
        index += [
            {**{key: row.get(key) for key in INDEX_SCHEMA.names}, "shard": name, "row": position, "num_text_bytes": 20}
            for position, row in enumerate(rows)
        ]
    pq.write_table(pa.Table.from_pylist(index, INDEX_SCHEMA), folder / "utterances.parquet")
    manifest = {"schema_version": SCHEMA_VERSION, "fingerprint": "0123abcd", "num_utterances": len(index)}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return Corpus.open(folder)
