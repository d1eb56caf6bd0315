"""An MLflow server for as long as a command runs: the one that is configured, or an embedded one on SQLite."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from caspi import settings
from caspi.errors import RequestError, TrackingError
from caspi.tracking.client import BOUNDS, QUIET, environment

ANSWER_TIMEOUT_S = 15.0
START_TIMEOUT_S = 180.0  # 4 s on an idle laptop; a first start on a busy one creates the database besides
STOP_TIMEOUT_S = 10.0


@contextlib.contextmanager
def server(uri: str | None = None, *, port: int = 0) -> Iterator[str]:
    """Yield the address of an MLflow server that answers. `port` is the embedded one's; 0 takes a free one.

    That is `uri`, else `MLFLOW_TRACKING_URI`, else a server on SQLite that is started on this machine and ends with the
    block, or with this process. Inside the block `MLFLOW_TRACKING_URI` is set: nested calls share the outermost server.

    Raises:
        RequestError: the port is taken.
        TrackingError: the server does not answer, or the embedded one does not start.
    """
    configured = settings.read()
    given = uri or configured.tracking_uri
    with contextlib.ExitStack() as stack:
        if given:
            _check(given)
        address = given or stack.enter_context(_embedded(configured.mlflow_folder, port))
        stack.enter_context(environment({"MLFLOW_TRACKING_URI": address}))
        stack.enter_context(environment(BOUNDS | QUIET, keep=True))
        yield address


def _check(uri: str) -> None:
    """Make sure that a configured server answers, before any work depends on it."""
    if not uri.startswith(("http://", "https://")):
        raise TrackingError(
            f"{uri}: expected the http(s):// address of an MLflow server, because workers on other machines and in "
            "other folders log to it too; start `mlflow server`, or unset MLFLOW_TRACKING_URI to get an embedded one"
        )
    deadline = time.monotonic() + ANSWER_TIMEOUT_S
    while (problem := _health_problem(uri, timeout_s=5.0)) is not None:
        if time.monotonic() >= deadline:
            raise TrackingError(
                f"{uri}: MLflow did not answer within {ANSWER_TIMEOUT_S:.0f} s ({problem}); "
                "start it, correct MLFLOW_TRACKING_URI, or unset it to get an embedded server"
            )
        time.sleep(0.5)


@contextlib.contextmanager
def _embedded(folder: Path, port: int) -> Iterator[str]:
    """Run local_server.py on the loopback interface."""
    (folder / "artifacts").mkdir(parents=True, exist_ok=True)
    # We listen and hand the socket over: the port cannot be lost to someone else, and connections wait until it serves.
    with _listen(port) as listening:
        address = f"http://127.0.0.1:{listening.getsockname()[1]}"
        log = folder / "server.log"
        log_start = log.stat().st_size if log.exists() else 0
        process = _start(folder, listening.fileno(), log)
    try:
        _wait_until_it_answers(process, address, log, log_start)
        yield address
    finally:
        _stop(process)


def _listen(port: int) -> socket.socket:
    try:
        return socket.create_server(("127.0.0.1", port))
    except OSError as error:
        raise RequestError(f"port {port} is taken; choose another one with --port") from error


def _start(folder: Path, listening: int, log: Path) -> subprocess.Popen[bytes]:
    script = Path(__file__).with_name("local_server.py")
    with log.open("ab") as output:
        return subprocess.Popen(
            # -P: the script's own folder must not shadow other people's modules.
            [sys.executable, "-P", str(script), "--socket", str(listening), "--folder", str(folder)],
            stdin=subprocess.PIPE,  # never written to; its end tells the server that we are gone
            stdout=output,
            stderr=subprocess.STDOUT,
            pass_fds=[listening],
            cwd=folder,
            env={**os.environ, **QUIET, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "PYTHONWARNINGS": "ignore"},
            start_new_session=True,  # Ctrl-C in the terminal is for us; we log how the run ended, then stop it
        )


def _wait_until_it_answers(process: subprocess.Popen[bytes], address: str, log: Path, log_start: int) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while (problem := _health_problem(address, timeout_s=2.0)) is not None:
        if process.poll() is not None or time.monotonic() >= deadline:
            ended = f"ended with code {process.returncode}" if process.returncode is not None else problem
            raise TrackingError(
                f"the embedded MLflow server did not start ({ended}); {log} ends:\n{_tail(log, log_start)}"
            )
        time.sleep(0.1)


def _health_problem(uri: str, *, timeout_s: float) -> str | None:
    """What keeps the server from answering, or None. A refusal is an answer: credentials are the clients' matter."""
    try:
        with urllib.request.urlopen(uri.rstrip("/") + "/health", timeout=timeout_s):
            return None
    except urllib.error.HTTPError as error:
        return None if error.code < 500 else f"HTTP {error.code}"
    except (OSError, ValueError) as error:
        return str(getattr(error, "reason", error))


def _stop(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin is not None
    process.stdin.close()
    try:
        process.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _tail(log: Path, start: int, *, num_lines: int = 15) -> str:
    with log.open("rb") as file:
        file.seek(start)
        return "\n".join(file.read().decode(errors="replace").splitlines()[-num_lines:])
