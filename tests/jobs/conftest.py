"""A real cluster to submit to: `ray start --head` on loopback, on ports of its own."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

START_TIMEOUT_S = 120


@pytest.fixture(scope="session")
def cluster(start_cluster: Callable[..., str]) -> str:
    """The dashboard's address of a cluster that asks for no token."""
    return start_cluster(RAY_AUTH_MODE="disabled")


@pytest.fixture(scope="session")
def start_cluster() -> Iterator[Callable[..., str]]:
    """Starts a cluster with the given environment and returns its dashboard's address. All end with the session."""
    started: list[tuple[subprocess.Popen[bytes], Path]] = []

    def start(**env: str) -> str:
        # Short: Ray puts sockets below it, and the path of a socket has 107 characters at most.
        folder = Path(tempfile.mkdtemp(prefix="caspi-", dir="/tmp"))
        process, address = _start(folder, env)
        started.append((process, folder))
        _wait_until_answering(address, process, folder)
        return address

    yield start
    for process, folder in started:
        _end(process)
        shutil.rmtree(folder, ignore_errors=True)


def _start(folder: Path, env: dict[str, str]) -> tuple[subprocess.Popen[bytes], str]:
    port, dashboard, client, agent, agent_grpc, metrics, runtime_env = _free_ports(7)
    scripts = Path(sys.executable).parent
    command = [
        *(str(scripts / "ray"), "start", "--head", "--block", "--disable-usage-stats", "--node-ip-address=127.0.0.1"),
        *(f"--port={port}", f"--temp-dir={folder}", "--num-cpus=4", f"--object-store-memory={150 * 2**20}"),
        *("--include-dashboard=true", "--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}"),
        *(f"--ray-client-server-port={client}", f"--dashboard-agent-listen-port={agent}"),
        *(f"--dashboard-agent-grpc-port={agent_grpc}", f"--metrics-export-port={metrics}"),
        f"--runtime-env-agent-port={runtime_env}",
    ]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    # `python` of a job is the first on the cluster's path.
    environment |= {"PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}", **env}
    with open(folder / "start.log", "wb") as log:
        process = subprocess.Popen(command, env=environment, cwd=folder, stdout=log, stderr=log, start_new_session=True)
    return process, f"http://127.0.0.1:{dashboard}"


def _free_ports(count: int) -> list[int]:
    """Ports that nobody listens on. The kernel's start at 32768, clear of Ray's worker ports, 10002 to 19999."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


def _wait_until_answering(address: str, process: subprocess.Popen[bytes], folder: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            urllib.request.urlopen(f"{address}/api/version", timeout=2)
            return
        except urllib.error.HTTPError:  # a cluster that asks for a token answers too
            return
        except OSError:
            time.sleep(0.5)
    pytest.fail(f"ray start did not come up:\n{(folder / 'start.log').read_text()}")


def _end(process: subprocess.Popen[bytes]) -> None:
    """End this cluster and nothing else. `ray start` led a session of its own, so all that it started is its group."""
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(timeout=10)
    with contextlib.suppress(ProcessLookupError):  # nobody left, as it should be
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(timeout=10)
