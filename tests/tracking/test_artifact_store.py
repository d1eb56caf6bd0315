"""Artifacts of runs whose store the tracking server does not pass on: MLflow's own clients reach it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import boto3
import pytest
from moto.server import ThreadedMotoServer

from caspi.tracking import MetricWriter, forget_checkpoint, record_checkpoint
from caspi.tracking.client import client


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    """The address of an S3 server on this machine. Its credentials are in the environment, as on a cluster."""
    server = ThreadedMotoServer("127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    patch = pytest.MonkeyPatch()
    for name, value in {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "MLFLOW_S3_ENDPOINT_URL": f"http://{host}:{port}",
    }.items():
        patch.setenv(name, value)
    yield f"http://{host}:{port}"
    patch.undo()
    server.stop()


def run_with_artifacts_at(uri: str, location: str) -> str:
    with client(uri) as mlflow:
        experiment = mlflow.create_experiment(uuid4().hex, artifact_location=location)
        return mlflow.create_run(experiment).info.run_id


def stored_in(bucket: Any) -> set[str]:
    return {each.key.rpartition("/artifacts/")[2] for each in bucket.objects.all()}


def test_files_and_tables_reach_s3_and_checkpoints_leave_it(s3: str, mlflow_uri: str, tmp_path: Path):
    bucket = boto3.resource("s3", endpoint_url=s3).Bucket("artifacts")
    bucket.create()
    run_id = run_with_artifacts_at(mlflow_uri, "s3://artifacts/runs")
    (tmp_path / "local name").write_text("content")
    writer = MetricWriter(mlflow_uri, run_id, spool=tmp_path / "spool.jsonl")
    writer.log_file(tmp_path / "local name", "reports/stored name")
    writer.log_table([{"step": 1}], "table.json")
    assert writer.close() == 0
    assert stored_in(bucket) == {"reports/stored name", "table.json"}
    record_checkpoint(mlflow_uri, run_id, 7, tmp_path, {})
    assert "checkpoints/step-00000007.json" in stored_in(bucket)
    forget_checkpoint(mlflow_uri, run_id, 7)
    assert stored_in(bucket) == {"reports/stored name", "table.json"}


def test_what_s3_refuses_is_dropped_and_told(
    s3: str, mlflow_uri: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    run_id = run_with_artifacts_at(mlflow_uri, "s3://no-such-bucket/runs")
    writer = MetricWriter(mlflow_uri, run_id, spool=tmp_path / "spool.jsonl")
    writer.log_table([{"step": 1}], "table.json")
    assert writer.close() == 0
    assert "MLflow does not get table table.json" in caplog.text
    assert "NoSuchBucket" in caplog.text


def test_a_folder_that_cannot_be_written_is_tried_again(mlflow_uri: str, tmp_path: Path):
    store = tmp_path / "store"
    store.write_text("not a folder")
    run_id = run_with_artifacts_at(mlflow_uri, store.as_uri())
    writer = MetricWriter(mlflow_uri, run_id, spool=tmp_path / "run" / "spool.jsonl")
    writer.log_table([{"step": 1}], "tables/first.json")
    assert writer.close(timeout_s=3) == 1
    store.unlink()
    again = MetricWriter(mlflow_uri, run_id, spool=tmp_path / "run" / "spool.jsonl")
    assert again.close() == 0
    assert [path.name for path in store.rglob("*.json")] == ["first.json"]
