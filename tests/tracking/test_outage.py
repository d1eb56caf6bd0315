"""MLflow goes wrong in every way that it can: training does not wait, and afterwards nothing is missing or doubled."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from caspi.tracking import Checkpoint, MetricWriter
from caspi.tracking.client import client
from caspi.tracking.model_files import ModelFiles
from tests.tracking.conftest import curve, new_run
from tests.tracking.faults import OwnServer, Proxy, is_artifact, until


@pytest.fixture
def own_server(home: Path) -> Iterator[OwnServer]:
    with OwnServer() as server:
        yield server


@pytest.fixture
def proxy(mlflow_uri: str) -> Iterator[Proxy]:
    with Proxy(mlflow_uri) as proxy:
        yield proxy


class Training:
    """What rank 0 logs, step after step, and what must be in MLflow in the end."""

    def __init__(self, uri: str, run_id: str, folder: Path) -> None:
        self.run_id, self.spool = run_id, folder / "run" / "spool.jsonl"
        self.writer = MetricWriter(uri, run_id, spool=self.spool)
        self._report = folder / "report.html"
        self._folder = folder
        self._step = 0

    def go_on(self, num_steps: int, *, pause_s: float = 0.01) -> None:
        for _ in range(num_steps):
            self._step += 1
            self.writer.log({"train/loss": 1 / self._step, "train/step_s": float(self._step)}, self._step)
            time.sleep(pause_s)

    def validate(self) -> None:
        """Everything that is logged beside points."""
        self.writer.log({"eval/wer": 0.5}, self._step)
        self._report.write_text(f"<p>step {self._step}")
        self.writer.log_file(self._report, "report.html")
        self.writer.log_table([{"step": self._step, "reference": "שלום"}], "validation.json")
        self.writer.log_tags({"caspi.step": str(self._step)})
        files = ModelFiles({"weights": "0" * 64}, {"weights": 4})
        self.writer.log_checkpoint(Checkpoint(self._step, "/checkpoint", {"eval/wer": 0.5}, files, is_best=True))

    def points_in(self, uri: str) -> int:
        return len(curve(uri, self.run_id, "train/loss"))

    def check(self, uri: str) -> None:
        """Everything that was logged is in the MLflow at `uri`, once, and nothing is left on disk."""
        assert self.writer.close() == 0
        steps = range(1, self._step + 1)
        assert curve(uri, self.run_id, "train/loss") == [(step, 1 / step) for step in steps]
        assert curve(uri, self.run_id, "train/step_s") == [(step, float(step)) for step in steps]
        assert not self.spool.parent.exists() or not list(self.spool.parent.iterdir())

    def check_uploads(self, uri: str, *, step: int) -> None:
        """The newest versions of everything else are those of `step`."""
        with client(uri) as mlflow:
            stored = Path(mlflow.download_artifacts(self.run_id, "", str(self._folder / "stored")))
            run = mlflow.get_run(self.run_id)
            models = mlflow.search_logged_models(["0"], f"source_run_id = '{self.run_id}'")
        assert (stored / "report.html").read_text() == f"<p>step {step}"
        assert json.loads((stored / "validation.json").read_text())["data"] == [[step, "שלום"]]
        assert json.loads((stored / "checkpoints" / f"step-{step:08d}.json").read_text())["place"] == "/checkpoint"
        assert run.data.tags["caspi.step"] == str(step)
        names = [model.name for model in models]
        assert names.count(f"step-{step:08d}") == 1
        assert len(names) == len(set(names)), "no checkpoint is recorded twice"


@pytest.fixture
def training(own_server: OwnServer, tmp_path: Path) -> Training:
    return Training(own_server.uri, new_run(own_server.uri), tmp_path)


@pytest.fixture
def proxied(proxy: Proxy, mlflow_uri: str, tmp_path: Path) -> Training:
    return Training(proxy.uri, new_run(mlflow_uri), tmp_path)


def test_a_server_that_stands_still_and_goes_on(own_server: OwnServer, training: Training):
    training.go_on(20)
    training.validate()
    until(lambda: training.points_in(own_server.uri) > 0)
    own_server.stop()
    training.go_on(150, pause_s=0.02)
    training.validate()
    own_server.go_on()
    training.go_on(20)
    training.check(own_server.uri)
    training.check_uploads(own_server.uri, step=170)


def test_a_server_that_is_killed_and_comes_back(own_server: OwnServer, training: Training):
    training.go_on(50)
    training.validate()
    until(lambda: training.points_in(own_server.uri) > 0)
    own_server.kill()
    training.go_on(100, pause_s=0.02)
    training.validate()
    until(lambda: len(training.spool.read_text().splitlines()) >= 100)
    own_server.start()
    training.go_on(20)
    training.check(own_server.uri)
    training.check_uploads(own_server.uri, step=150)


def test_a_server_whose_every_answer_comes_late(proxy: Proxy, proxied: Training, mlflow_uri: str):
    proxy.delay_s = 5.0
    proxied.go_on(100)
    until(lambda: proxied.points_in(mlflow_uri) > 0)
    proxy.delay_s = 0.0
    proxied.go_on(20)
    proxied.check(mlflow_uri)


@pytest.mark.parametrize("status", [400, 404, 413, 500, 507])
def test_somebody_in_between_who_answers_with_errors(
    status: int, proxy: Proxy, proxied: Training, mlflow_uri: str, caplog: pytest.LogCaptureFixture
):
    proxied.go_on(20)
    until(lambda: proxied.points_in(mlflow_uri) > 0)
    proxy.status = status
    proxied.go_on(50, pause_s=0.04)
    proxied.writer.log_tags({"caspi.step": "70"})
    until(lambda: "is away" in caplog.text)
    proxy.status = None
    proxied.go_on(20)
    proxied.check(mlflow_uri)
    with client(mlflow_uri) as mlflow:
        assert mlflow.get_run(proxied.run_id).data.tags["caspi.step"] == "70"


@pytest.mark.parametrize("message", [b"<html>please log in", b"[]", b'{"status": "fine"}'])
def test_an_answer_of_somebody_else_is_no_confirmation(
    message: bytes, proxy: Proxy, proxied: Training, mlflow_uri: str, caplog: pytest.LogCaptureFixture
):
    proxy.status, proxy.message = 200, message
    # MLflow's own confirmation of points is an object too, so of another object only what reads it can tell.
    proxy.applies = lambda path: "runs/get" in path or message[:1] != b"{"
    proxied.go_on(20)
    proxied.validate()
    until(lambda: "is away" in caplog.text)
    proxy.status = None
    proxied.check(mlflow_uri)
    proxied.check_uploads(mlflow_uri, step=20)


@pytest.mark.parametrize("status", [500, 507])
def test_an_artifact_store_that_is_full_holds_no_point_up(
    status: int, proxy: Proxy, proxied: Training, mlflow_uri: str
):
    proxy.status, proxy.applies = status, is_artifact
    proxied.go_on(20)
    proxied.validate()
    proxied.go_on(20)
    until(lambda: proxied.points_in(mlflow_uri) == 40)
    proxied.validate()
    until(lambda: sum(map(is_artifact, proxy.paths)) > 3)
    proxy.status = None
    proxied.check(mlflow_uri)
    proxied.check_uploads(mlflow_uri, step=40)


def test_an_artifact_store_that_cannot_be_written_is_tried_again(own_server: OwnServer, training: Training, home: Path):
    artifacts = home / "mlflow" / "artifacts"
    shutil.rmtree(artifacts)
    artifacts.write_text("not a folder")  # what permissions are to root
    training.go_on(20)
    training.validate()
    until(lambda: training.points_in(own_server.uri) == 20)
    until(lambda: (training.spool.with_suffix(".uploads")).is_dir())
    artifacts.unlink()
    training.check(own_server.uri)
    training.check_uploads(own_server.uri, step=20)


def test_one_artifact_that_never_succeeds_holds_up_no_other(proxy: Proxy, proxied: Training, mlflow_uri: str):
    proxy.status, proxy.applies = 500, lambda path: path.endswith("report.html")
    proxied.go_on(5)
    proxied.validate()
    uploads = proxied.spool.with_suffix(".uploads")
    until(lambda: proxied.points_in(mlflow_uri) == 5 and len(list(uploads.glob("*.json"))) == 1)
    proxy.status = None
    proxied.check(mlflow_uri)
    proxied.check_uploads(mlflow_uri, step=5)


def test_an_artifact_store_that_hangs_holds_no_point_up(proxy: Proxy, proxied: Training, mlflow_uri: str):
    proxy.delay_s, proxy.applies = 25.0, is_artifact
    proxied.validate()
    until(lambda: any(map(is_artifact, proxy.paths)))
    proxied.go_on(20)
    until(lambda: proxied.points_in(mlflow_uri) == 20)
    assert (proxied.spool.with_suffix(".uploads")).is_dir(), "uploads still hang"
    proxy.delay_s = 0.0
    proxied.check(mlflow_uri)
    proxied.check_uploads(mlflow_uri, step=0)


@pytest.mark.parametrize("status", [403, 413, 422])
def test_an_artifact_that_is_refused_is_dropped_and_told(
    status: int, proxy: Proxy, proxied: Training, mlflow_uri: str, caplog: pytest.LogCaptureFixture
):
    proxy.status, proxy.applies = status, is_artifact
    proxied.go_on(5)
    proxied.validate()
    proxied.check(mlflow_uri)
    assert f"MLflow does not get file report.html: HTTP {status}" in caplog.text
    assert f"MLflow does not get table validation.json: HTTP {status}" in caplog.text
    with client(mlflow_uri) as mlflow:
        assert not mlflow.list_artifacts(proxied.run_id)


def test_points_of_a_run_that_was_deleted_wait_until_it_is_restored(
    mlflow_uri: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    training = Training(mlflow_uri, new_run(mlflow_uri), tmp_path)
    with client(mlflow_uri) as mlflow:
        mlflow.delete_run(training.run_id)
    training.go_on(5)
    until(lambda: "restore it in MLflow" in caplog.text)
    with client(mlflow_uri) as mlflow:
        mlflow.restore_run(training.run_id)
    training.check(mlflow_uri)


def test_a_process_that_dies_while_the_server_stands_still_loses_nothing(own_server: OwnServer, tmp_path: Path):
    run_id = new_run(own_server.uri)
    own_server.stop()
    script = f"""
import time
from pathlib import Path
from typing import Any
from tests.tracking.test_outage import Training
training = Training({own_server.uri!r}, {run_id!r}, Path({str(tmp_path)!r}))
training.go_on(1)
time.sleep(3)  # the writer hangs in its first request
training.go_on(100, pause_s=0.001)
training.validate()
print("logged", flush=True)
time.sleep(100)
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, env=environment)
    assert process.stdout is not None
    assert process.stdout.readline() == "logged\n"
    spool = tmp_path / "run" / "spool.jsonl"
    until(lambda: spool.read_text().count("\n") == 203 and len(list(spool.with_suffix(".uploads").glob("*.json"))) == 4)
    process.send_signal(signal.SIGKILL)
    process.wait()
    own_server.go_on()
    resumed = Training(own_server.uri, run_id, tmp_path)
    resumed.go_on(105)  # from the start, as there was no checkpoint
    resumed.check(own_server.uri)
    resumed.check_uploads(own_server.uri, step=101)


def test_whoever_logs_touches_neither_network_nor_spool(
    mlflow_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    connect, open_path, senders, spoolers = socket.socket.connect, Path.open, set(), set()

    def spy_connect(self: socket.socket, address: object) -> None:
        senders.add(threading.current_thread().name)
        connect(self, address)

    def spy_open(self: Path, *arguments: Any, **options: Any) -> Any:
        if self.is_relative_to(tmp_path / "run"):
            spoolers.add(threading.current_thread().name)
        return open_path(self, *arguments, **options)

    run_id = new_run(mlflow_uri)
    monkeypatch.setattr(socket.socket, "connect", spy_connect)
    monkeypatch.setattr(Path, "open", spy_open)
    training = Training(mlflow_uri, run_id, tmp_path)
    training.go_on(5)
    training.validate()
    training.writer.forget_checkpoint(5)
    assert training.writer.close() == 0
    assert senders <= {"caspi-points", "caspi-uploads"}
    assert "caspi-points" in senders
    assert spoolers == {"caspi-spool"}
