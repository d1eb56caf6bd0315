"""Tags, files, tables and checkpoint records arrive too."""

import json
import math
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from caspi.errors import TrackingError
from caspi.tracking import Checkpoint, MetricWriter, forget_checkpoint, record_checkpoint
from caspi.tracking.client import client
from tests.tracking.conftest import curve


def artifact(uri: str, run_id: str, path: str, into: Path) -> str:
    with client(uri) as mlflow:
        return Path(mlflow.download_artifacts(run_id, path, str(into))).read_text()


def tags(uri: str, run_id: str) -> dict[str, str]:
    with client(uri) as mlflow:
        return mlflow.get_run(run_id).data.tags


def test_everything_arrives_and_nothing_is_left_on_disk(mlflow_uri: str, run_id: str, tmp_path: Path):
    report = tmp_path / "my report.html"
    report.write_text("<p>first")
    spool = tmp_path / "run" / "spool.jsonl"
    writer = MetricWriter(mlflow_uri, run_id, spool=spool)
    writer.log_tags({"gpu": "none", "name": "first"})
    writer.log_tags({"name": "second"})
    writer.log_file(report, "reports/of step 7.html")
    assert writer.close() == 0
    found = tags(mlflow_uri, run_id)
    assert (found["gpu"], found["name"]) == ("none", "second")
    assert artifact(mlflow_uri, run_id, "reports/of step 7.html", tmp_path) == "<p>first"
    assert not list(spool.parent.iterdir())


def test_a_table_is_one_that_mlflow_shows_as_such(
    mlflow_uri: str, run_id: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    rows = [{"step": 7, "wer": np.float32(0.5)}, {"step": 7, "wer": math.nan, "reference": "שלום"}]
    writer = MetricWriter(mlflow_uri, run_id, spool=tmp_path / "spool.jsonl")
    writer.log_table(rows[:1], "first.json")
    writer.log_table(rows[:1], "validation/small.json")
    assert writer.close() == 0
    again = MetricWriter(mlflow_uri, run_id, spool=tmp_path / "spool.jsonl")
    again.log_table(rows, "validation/small.json")
    assert again.close() == 0
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_uri)  # load_table asks the process' own server too
    with client(mlflow_uri) as mlflow:
        assert len(mlflow.load_table("0", "first.json", run_ids=[run_id])) == 1
        table = mlflow.load_table("0", "validation/small.json", run_ids=[run_id])
    assert list(table.columns) == ["step", "wer", "reference"]
    assert table["reference"].tolist()[1] == "שלום"
    assert table.isna().to_numpy().tolist() == [[False, False, True], [False, True, False]]


def test_a_table_with_another_name_or_with_strange_values_is_refused_at_once(tmp_path: Path):
    writer = MetricWriter("http://127.0.0.1:9", "run", spool=tmp_path / "spool.jsonl")
    with pytest.raises(ValueError, match=r"\.json"):
        writer.log_table([{"step": 1}], "table.csv")
    with pytest.raises(TypeError, match="Path"):
        writer.log_table([{"step": tmp_path}], "table.json")
    assert writer.close(timeout_s=5) == 0


def test_a_file_that_is_gone_is_reported_and_holds_nothing_up(
    mlflow_uri: str, run_id: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    writer = MetricWriter(mlflow_uri, run_id, spool=tmp_path / "spool.jsonl")
    writer.log_file(tmp_path / "nothing.html", "report.html")
    writer.log_tags({"last": "yes"})
    assert writer.close() == 0
    assert "nothing.html is not there any more" in caplog.text
    assert tags(mlflow_uri, run_id)["last"] == "yes"


def test_an_artifact_that_mlflow_refuses_is_reported_and_dropped(
    mlflow_uri: str, run_id: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    (tmp_path / "file").write_text("content")
    writer = MetricWriter(mlflow_uri, run_id, spool=tmp_path / "spool.jsonl")
    writer.log_file(tmp_path / "file", "../outside")
    writer.log_tags({"last": "yes"})
    assert writer.close() == 0
    assert "../outside" in caplog.text
    assert tags(mlflow_uri, run_id)["last"] == "yes"


def test_a_later_version_replaces_one_that_waits(mlflow_uri: str, run_id: str, tmp_path: Path):
    spool = tmp_path / "run" / "spool.jsonl"
    stranded = MetricWriter("http://127.0.0.1:9", run_id, spool=spool)
    for step in range(5):
        stranded.log_table([{"step": step}], "table.json")
    assert stranded.close(timeout_s=1) == 1
    (spool.with_suffix(".uploads") / "begun.partial").write_text('{"run_id": "cut sho')
    resumed = MetricWriter(mlflow_uri, run_id, spool=spool)
    assert resumed.close() == 0
    assert json.loads(artifact(mlflow_uri, run_id, "table.json", tmp_path))["data"] == [[4]]
    assert not list(spool.parent.iterdir())


@pytest.fixture
def checkpoint(tmp_path: Path) -> Checkpoint:
    folder = tmp_path / "checkpoint-000100"
    (folder / "model").mkdir(parents=True)
    (folder / "model" / "weights").write_bytes(b"1234")
    (folder / "cursor.json").write_text("{}")
    return Checkpoint.of(folder, step=100, metrics={"eval/wer": 0.25, "eval/cer": 0.125}, is_best=True)


def test_a_checkpoint_is_an_artifact_and_a_logged_model_with_its_metrics(
    mlflow_uri: str, run_id: str, tmp_path: Path, checkpoint: Checkpoint
):
    writer = MetricWriter(mlflow_uri, run_id, spool=tmp_path / "spool.jsonl")
    writer.log({"eval/wer": 0.25, "train/loss": 3.0}, 100)
    writer.log_checkpoint(replace(checkpoint, place="somewhere else"))
    writer.log_checkpoint(checkpoint)
    assert writer.close() == 0
    again = MetricWriter(mlflow_uri, run_id, spool=tmp_path / "spool.jsonl")
    again.log_checkpoint(checkpoint)
    assert again.close() == 0
    record = json.loads(artifact(mlflow_uri, run_id, "checkpoints/step-00000100.json", tmp_path))
    assert (record["step"], record["place"], record["is_best"]) == (100, checkpoint.place, True)
    assert record["files"]["model/weights"] == {"sha256": sha256(b"1234").hexdigest(), "size_bytes": 4}
    (model,) = logged_models(mlflow_uri, run_id)
    assert (model.name, model.status, model.params) == ("step-00000100", "READY", {"step": "100"})
    assert model.tags["caspi.place"] == checkpoint.place
    assert {(metric.key, metric.value, metric.step) for metric in model.metrics} == {
        ("eval/wer", 0.25, 100), ("eval/cer", 0.125, 100)
    }  # fmt: skip
    assert curve(mlflow_uri, run_id, "eval/wer") == [(100, 0.25)], "its metrics are the run's own points"
    assert curve(mlflow_uri, run_id, "eval/cer") == [(100, 0.125)]


def test_a_checkpoint_that_is_deleted_is_forgotten(
    mlflow_uri: str, run_id: str, tmp_path: Path, checkpoint: Checkpoint
):
    writer = MetricWriter(mlflow_uri, run_id, spool=tmp_path / "spool.jsonl")
    writer.log_checkpoint(checkpoint)
    writer.log_checkpoint(replace(checkpoint, step=200))
    assert writer.close() == 0
    again = MetricWriter(mlflow_uri, run_id, spool=tmp_path / "spool.jsonl")
    again.forget_checkpoint(100)
    again.forget_checkpoint(300)
    assert again.close() == 0
    assert [model.name for model in logged_models(mlflow_uri, run_id)] == ["step-00000200"]
    with client(mlflow_uri) as mlflow:
        assert [each.path for each in mlflow.list_artifacts(run_id, "checkpoints")] == [
            "checkpoints/step-00000200.json"
        ]
    assert curve(mlflow_uri, run_id, "eval/wer") == [(100, 0.25), (200, 0.25)]


def test_a_driver_records_and_forgets_at_once(mlflow_uri: str, run_id: str, tmp_path: Path):
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
        record_checkpoint(mlflow_uri, run_id, 100, tmp_path / name, {"eval/wer": 0.25})
    (model,) = logged_models(mlflow_uri, run_id)
    assert model.tags["caspi.place"] == str(tmp_path / "new")
    assert curve(mlflow_uri, run_id, "eval/wer") == [(100, 0.25)]
    for _ in range(2):
        forget_checkpoint(mlflow_uri, run_id, 100)
        assert not logged_models(mlflow_uri, run_id)


def test_recording_for_an_unknown_run_is_an_error_of_ours(mlflow_uri: str, tmp_path: Path):
    with pytest.raises(TrackingError, match="nowhere"):
        record_checkpoint(mlflow_uri, "nowhere", 100, tmp_path, {})


def logged_models(uri: str, run_id: str) -> list[Any]:
    with client(uri) as mlflow:
        return list(mlflow.search_logged_models(["0"], f"source_run_id = '{run_id}'"))
