"""A PostgreSQL server of our own on loopback, for the tests that want one."""

import glob
import importlib.util
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

START_TIMEOUT_S = 60


@contextmanager
def server() -> Iterator[str]:
    """Its URL, for SQLAlchemy. Skips where PostgreSQL or its driver is not installed."""
    if importlib.util.find_spec("psycopg") is None:
        pytest.skip("psycopg is not installed: pip install 'caspi[postgres]'")
    programs = Path(_programs())
    account = {"user": "postgres"} if os.geteuid() == 0 else {}  # it refuses to run as root
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]

    # Not in pytest's own folder, which is closed to other accounts.
    with tempfile.TemporaryDirectory(prefix="caspi-postgres-") as name:
        folder = Path(name)
        if account:
            shutil.chown(folder, "postgres")

        def run(program: str, *arguments: str) -> None:
            subprocess.run(
                [programs / program, "-D", folder / "data", *arguments],
                check=True,
                timeout=START_TIMEOUT_S,
                stdout=subprocess.DEVNULL,
                cwd=folder,
                **account,  # type: ignore[call-overload]
            )

        run("initdb", "--auth=trust", "--username=caspi", "--no-sync")
        options = f"-c listen_addresses=127.0.0.1 -c port={port} -c unix_socket_directories={folder} -c fsync=off"
        run("pg_ctl", "-w", "-l", str(folder / "log"), "-o", options, "start")
        try:
            yield f"postgresql+psycopg://caspi@127.0.0.1:{port}/postgres"
        finally:
            run("pg_ctl", "-w", "-m", "immediate", "stop")


def _programs() -> str:
    """The folder of initdb, which Debian keeps off the PATH."""
    installed = [*sorted(glob.glob("/usr/lib/postgresql/*/bin"), reverse=True)]
    if on_path := shutil.which("initdb"):
        installed.insert(0, os.path.dirname(os.path.realpath(on_path)))
    if not installed:
        pytest.skip("no PostgreSQL here (Debian: apt-get install postgresql)")
    return installed[0]
