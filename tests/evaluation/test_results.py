"""The folder that an evaluation leaves behind."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from caspi.errors import ResultsError
from caspi.evaluation.results import UTTERANCES_SCHEMA, Results, fingerprint_test_set

METRICS = {
    "wer": 0.5, "wer_interval": [0.4, 0.6], "cer": 0.5, "scores": {}, "slices": {}, "hallucination": {},
    "num_failed": 0, "latency_s": {}, "rtfx": 1.0, "test_set": {"fingerprint": "0"}, "normalizer": "he",
    "split": "test", "model": "runs/mine", "model_fingerprint": "0", "system": {"name": "runs/mine", "kind": "caspi"},
}  # fmt: skip


def results() -> Results:
    return Results.of_rows(METRICS, [{"utterance_id": "u", "slices": ["source=x"], "row": 3, "began_unix_s": 1.0}])


def test_what_was_written_is_read(tmp_path: Path):
    results().write(tmp_path / "out")
    again = Results.read(tmp_path / "out")
    assert again.metrics == METRICS
    assert again.utterances.equals(results().utterances)
    assert again.utterances.schema == UTTERANCES_SCHEMA
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["metrics.json", "utterances.parquet"]


def test_a_folder_that_is_not_there_is_named(tmp_path: Path):
    with pytest.raises(ResultsError, match="no such folder; run `caspi evaluate"):
        Results.read(tmp_path / "nowhere")


@pytest.mark.parametrize("name", ["metrics.json", "utterances.parquet"])
def test_an_evaluation_that_was_interrupted_is_not_read(tmp_path: Path, name: str):
    results().write(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(ResultsError, match=f"not a finished evaluation: no {name}"):
        Results.read(tmp_path)


@pytest.mark.parametrize("name", ["metrics.json", "utterances.parquet"])
def test_a_damaged_file_is_said_to_be_one(tmp_path: Path, name: str):
    results().write(tmp_path)
    (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:20])
    with pytest.raises(ResultsError, match="cannot be read as an evaluation"):
        Results.read(tmp_path)


def test_what_another_version_wrote_is_refused(tmp_path: Path):
    results().write(tmp_path)
    pq.write_table(results().utterances.drop_columns(["slices"]), tmp_path / "utterances.parquet")
    (tmp_path / "metrics.json").write_text(json.dumps({name: METRICS[name] for name in METRICS if name != "system"}))
    with pytest.raises(ResultsError, match="it lacks slices, system; evaluate again"):
        Results.read(tmp_path)


def test_a_figure_that_is_none_is_not_written(tmp_path: Path):
    with pytest.raises(ValueError):
        Results.of_rows({**METRICS, "wer": float("nan")}, []).write(tmp_path)
    assert not (tmp_path / "metrics.json").exists()


def test_a_test_set_is_known_by_its_ids_and_references_alone():
    one = fingerprint_test_set([("a", "שלום"), ("b", "עולם")])
    assert one == fingerprint_test_set([("b", "עולם"), ("a", "שלום")])
    assert one != fingerprint_test_set([("a", "שלום"), ("b", "עולמי")])
    assert one != fingerprint_test_set([("a", "שלום")])
