"""The MLflow server that a command uses."""

import os
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from caspi.errors import TrackingError
from caspi.tracking import server
from caspi.tracking import server as server_function

SERVER = sys.modules[server_function.__module__]


def test_an_embedded_server_answers_ends_with_the_block_and_leaves_the_environment_alone(home: Path):
    before = dict(os.environ)
    with server() as uri:
        assert urllib.request.urlopen(uri + "/health", timeout=5).read() == b"OK"
        assert os.environ["MLFLOW_TRACKING_URI"] == uri
        with server() as inner:
            assert inner == uri
    assert dict(os.environ) == before
    assert not _answers(uri)
    assert (home / "mlflow" / "mlflow.db").is_file()


def test_killing_the_parent_with_signal_9_leaves_no_server():
    parent = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "from caspi.tracking import server\nwith server() as uri: print(uri, flush=True); input()",
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    uri = parent.stdout.readline().strip()
    assert _answers(uri)
    parent.send_signal(signal.SIGKILL)
    parent.wait(10)
    deadline = time.monotonic() + 15
    while _answers(uri):
        assert time.monotonic() < deadline, "the server outlived its parent"
        time.sleep(0.1)


def test_a_server_that_does_not_start_is_explained_by_the_end_of_its_log(home: Path):
    (home / "mlflow").mkdir(parents=True)
    (home / "mlflow" / "mlflow.db").write_text("not a database, " * 100)
    with pytest.raises(TrackingError, match="file is not a database"), server():
        pass


def test_a_configured_server_that_does_not_answer_is_an_error_that_says_what_to_do(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(SERVER, "ANSWER_TIMEOUT_S", 0.0)
    with pytest.raises(TrackingError, match="correct MLFLOW_TRACKING_URI"), server("http://127.0.0.1:9"):
        pass


def test_a_tracking_uri_that_workers_elsewhere_cannot_reach_is_refused():
    with pytest.raises(TrackingError, match="expected the http"), server("sqlite:///mlflow.db"):
        pass


def test_a_given_server_is_used_and_left_running(mlflow_uri: str):
    with server(mlflow_uri) as uri:
        assert uri == mlflow_uri
    assert _answers(mlflow_uri)


def _answers(uri: str) -> bool:
    try:
        with urllib.request.urlopen(uri + "/health", timeout=5):
            return True
    except OSError:
        return False
