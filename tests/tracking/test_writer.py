"""Curves arrive whole, whatever happens to the server and to the writer."""

import json
import math
import socket
import time
from pathlib import Path

import pytest

from caspi.tracking import MetricWriter
from tests.tracking.conftest import curve
from tests.tracking.faults import Proxy, until


def test_points_arrive_in_order_and_the_spool_is_removed(mlflow_uri: str, run_id: str, tmp_path: Path):
    writer = MetricWriter(mlflow_uri, run_id, spool=tmp_path / "spool.jsonl")
    for step in range(1500):  # more than one request takes
        writer.log({"train/loss": 1 / (step + 1), "train/learning_rate": step}, step)
    assert writer.close() == 0
    assert curve(mlflow_uri, run_id, "train/loss") == [(step, 1 / (step + 1)) for step in range(1500)]
    assert curve(mlflow_uri, run_id, "train/learning_rate")[-1] == (1499, 1499.0)
    assert not (tmp_path / "spool.jsonl").exists()


def test_a_server_that_stops_and_returns_misses_and_doubles_nothing(mlflow_uri: str, run_id: str, tmp_path: Path):
    spool = tmp_path / "spool.jsonl"
    with Proxy(mlflow_uri) as proxy:
        writer = MetricWriter(proxy.uri, run_id, spool=spool)
        for step in range(50):
            writer.log({"train/loss": float(step)}, step)
            time.sleep(0.002)
        until(lambda: len(curve(mlflow_uri, run_id, "train/loss")) > 0)
        proxy.target = None
        for step in range(50, 100):
            writer.log({"train/loss": float(step)}, step)
        until(lambda: spool.exists() and spool.read_text().count("\n") >= 50)
        proxy.target = mlflow_uri
        for step in range(100, 120):
            writer.log({"train/loss": float(step)}, step)
        assert writer.close(30) == 0
    assert curve(mlflow_uri, run_id, "train/loss") == [(step, float(step)) for step in range(120)]


def test_what_one_writer_could_not_send_the_next_one_sends(mlflow_uri: str, run_id: str, tmp_path: Path):
    spool = tmp_path / "deep" / "spool.jsonl"
    stranded = MetricWriter("http://127.0.0.1:9", run_id, spool=spool)
    for step in range(20):
        stranded.log({"loss": float(step)}, step)
    assert stranded.close(timeout_s=0.5) == 20
    with spool.open("a") as file:
        file.write('{"run_id": "cut sho')  # the machine went down while it wrote
    resumed = MetricWriter(mlflow_uri, run_id, spool=spool)
    for step in range(10, 30):  # a checkpoint at step 10: what follows is done again
        resumed.log({"loss": float(step) + 0.001 * (step < 20)}, step)
    assert resumed.close() == 0
    assert curve(mlflow_uri, run_id, "loss") == [(step, float(step)) for step in range(30)]


def test_a_resumed_run_does_not_double_what_the_server_has(mlflow_uri: str, run_id: str, tmp_path: Path):
    for attempt in range(2):  # on another machine: with another spool
        writer = MetricWriter(mlflow_uri, run_id, spool=tmp_path / f"{attempt}.jsonl")
        for step in range(10 + 5 * attempt):
            writer.log({"loss": float(step) + 0.5 * attempt * (step < 10)}, step)
        assert writer.close() == 0
    assert curve(mlflow_uri, run_id, "loss") == [(step, float(step)) for step in range(15)]


def test_a_spool_is_not_sent_to_another_run(mlflow_uri: str, run_id: str, tmp_path: Path):
    spool = tmp_path / "spool.jsonl"
    point = {"run_id": "somebody else's", "key": "loss", "value": 1.0, "step": 1, "timestamp_ms": 1}
    spool.write_text(json.dumps(point) + "\n")
    writer = MetricWriter(mlflow_uri, run_id, spool=spool)
    assert writer.close() == 0
    assert curve(mlflow_uri, run_id, "loss") == []


def test_what_is_logged_while_a_request_hangs_is_on_disk(tmp_path: Path):
    spool = tmp_path / "spool.jsonl"
    with socket.create_server(("127.0.0.1", 0)) as silent:  # accepts and never answers
        writer = MetricWriter(f"http://127.0.0.1:{silent.getsockname()[1]}", "run", spool=spool)
        writer.log({"loss": 0.0}, 0)
        silent.accept()
        for step in range(1, 1000):
            writer.log({"loss": float(step)}, step)
        until(lambda: spool.read_text().count("\n") == 1000)
        assert writer.close(timeout_s=0.5) == 1000
    assert sorted(json.loads(line)["step"] for line in spool.read_text().splitlines()) == list(range(1000))


def test_a_point_that_the_server_refuses_does_not_hold_up_the_others(mlflow_uri: str, run_id: str, tmp_path: Path):
    writer = MetricWriter(mlflow_uri, run_id, spool=tmp_path / "spool.jsonl")
    writer.log({"loss": 1.0, "not allowed: *": 2.0, "wer": 3.0}, 1)
    assert writer.close() == 0
    assert curve(mlflow_uri, run_id, "loss") == [(1, 1.0)]
    assert curve(mlflow_uri, run_id, "wer") == [(1, 3.0)]


def test_numbers_that_are_none_are_kept_as_such(mlflow_uri: str, run_id: str, tmp_path: Path):
    writer = MetricWriter(mlflow_uri, run_id, spool=tmp_path / "spool.jsonl")
    writer.log({"loss": math.nan, "norm": math.inf}, 1)
    assert writer.close() == 0
    ((_, loss),) = curve(mlflow_uri, run_id, "loss")
    assert math.isnan(loss)
    assert curve(mlflow_uri, run_id, "norm")[0][1] > 1e300


def test_a_spool_that_cannot_be_written_costs_durability_only(
    mlflow_uri: str, run_id: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    (tmp_path / "full").write_text("a disk")
    writer = MetricWriter(mlflow_uri, run_id, spool=tmp_path / "full" / "spool.jsonl")
    for step in range(10):
        writer.log({"loss": 1.0}, step)
        writer.log_tags({"step": str(step)})
        time.sleep(0.05)
    assert writer.close() == 0
    assert len(curve(mlflow_uri, run_id, "loss")) == 10
    assert caplog.text.count("in memory only") == 2, "once for points, once for uploads"
