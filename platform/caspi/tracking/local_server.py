"""The embedded MLflow server: one process, which ends when its parent does, however the parent ends.

`caspi.tracking.server` runs this file as a script. It is not imported, and imports nothing of Caspi: every import here
is start-up time that each command pays. `mlflow server` would do the same with two processes that both import MLflow,
and eight more for jobs that we never submit: on two cores 8.5 s to the first answer, 6.2 s without jobs, here 3.5 s.
"""

import argparse
import fcntl
import os
import socket
import sys
import threading
import time
from pathlib import Path
from typing import Any


def main() -> None:
    """Serve on an already listening socket until standard input ends."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--socket", type=int, required=True, help="file descriptor of a listening socket")
    parser.add_argument("--folder", type=Path, required=True, help="where the database and the artifacts are")
    arguments = parser.parse_args()

    servers: list[Any] = []
    threading.Thread(target=_end_with_parent, args=(servers,), daemon=True).start()

    import uvicorn  # before mlflow.server, which looks for it to know that it is being served

    _configure(arguments.folder)
    _initialize_database(arguments.folder)
    server = uvicorn.Server(uvicorn.Config("mlflow.server.fastapi_app:app", log_level="warning"))
    servers.append(server)
    server.run(sockets=[socket.socket(fileno=arguments.socket)])
    os._exit(0)  # requests are answered and committed; MLflow's threads would take another second to end


def _end_with_parent(servers: list[Any]) -> None:
    """Stop when standard input ends: the kernel closes it with the parent, even after kill -9."""
    sys.stdin.buffer.read()
    for server in servers:
        server.should_exit = True
    time.sleep(5 if servers else 0)  # let requests under way finish
    os._exit(0)


def _configure(folder: Path) -> None:
    """Tell the application where things are, as `mlflow server` does: by environment."""
    from mlflow.server import constants

    os.environ.update(
        {
            constants.BACKEND_STORE_URI_ENV_VAR: _database(folder),
            constants.REGISTRY_STORE_URI_ENV_VAR: _database(folder),
            constants.ARTIFACT_ROOT_ENV_VAR: "mlflow-artifacts:/",
            constants.ARTIFACTS_DESTINATION_ENV_VAR: str(folder / "artifacts"),
            constants.SERVE_ARTIFACTS_ENV_VAR: "true",
        }
    )


def _initialize_database(folder: Path) -> None:
    """Create or migrate the tables, one server at a time: two that do it together break the database."""
    from mlflow.server.handlers import initialize_backend_stores

    with (folder / "mlflow.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        initialize_backend_stores(_database(folder), _database(folder), "mlflow-artifacts:/")


def _database(folder: Path) -> str:
    return f"sqlite:///{folder / 'mlflow.db'}"


if __name__ == "__main__":
    main()
