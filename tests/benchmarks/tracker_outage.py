"""What a training loop notices when MLflow is away for a minute, and what MLflow has afterwards.

    python -m tests.benchmarks.tracker_outage --kind stopped     # SIGSTOP: connections open, nothing answers
    python -m tests.benchmarks.tracker_outage --kind killed      # SIGKILL, and a new server on the same database

The loop logs ten points every 0.1 s, for twenty seconds before the outage, all through it, and for twenty seconds
after; every ten seconds it logs a table, a file and a tag.
"""

import argparse
import os
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from caspi.tracking import MetricWriter
from caspi.tracking.client import client
from tests.tracking.faults import OwnServer

_INTERVAL_S = 0.1
_AROUND_S = 20.0
_NUM_CURVES = 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kind", choices=("stopped", "killed"), default="stopped")
    parser.add_argument("--seconds", type=float, default=60.0, help="how long MLflow is away")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["CASPI_HOME"] = folder
        os.environ.pop("MLFLOW_TRACKING_URI", None)
        with OwnServer() as server:
            _measure(server, Path(folder), arguments.kind, arguments.seconds)


def _measure(server: OwnServer, folder: Path, kind: str, seconds: float) -> None:
    with client(server.uri) as mlflow:
        run_id = mlflow.create_run("0").info.run_id
    loop = Loop(server.uri, run_id, folder)
    loop.run(_AROUND_S)
    away, back = (server.stop, server.go_on) if kind == "stopped" else (server.kill, server.start)
    away()
    loop.run(seconds)
    back()
    returned = time.perf_counter()
    loop.run(_AROUND_S)
    num_left = loop.writer.close(60)
    loop.empty_at.append(time.perf_counter())
    caught_up_s = next(at for at in loop.empty_at if at > returned) - returned
    with client(server.uri) as mlflow:
        stored = Counter(
            (point.key, point.step)
            for curve in range(_NUM_CURVES)
            for point in mlflow.get_metric_history(run_id, f"train/curve_{curve}")
        )
        files = {file.path for file in mlflow.list_artifacts(run_id)}
        tag = mlflow.get_run(run_id).data.tags.get("caspi.validated")
    logged = {(f"train/curve_{curve}", step) for curve in range(_NUM_CURVES) for step in range(loop.num_steps)}
    rows = {
        f"seconds away ({kind})": f"{seconds:.0f}",
        "calls": str(len(loop.calls_s)),
        "longest call, ms": f"{1000 * max(loop.calls_s):.1f}",
        "points logged": str(len(logged)),
        "points missing": str(len(logged - stored.keys())),
        "points doubled": str(sum(count > 1 for count in stored.values())),
        "tables, files and tags missing": str(len({"table.json", "file.txt"} - files) + (tag != loop.validated)),
        "left when closed": str(num_left),
        "seconds from its return until it had every point": f"{caught_up_s:.1f}",
    }
    for name, value in rows.items():
        print(f"| {name} | {value} |")


class Loop:
    """A training loop that does nothing but log."""

    def __init__(self, uri: str, run_id: str, folder: Path) -> None:
        self._spool = folder / "metrics.spool.jsonl"
        self.writer = MetricWriter(uri, run_id, spool=self._spool)
        self.calls_s: list[float] = []
        self.empty_at: list[float] = []  # when MLflow had every point
        self.num_steps = 0
        self.validated = ""
        self._file = folder / "file.txt"

    def run(self, seconds: float) -> None:
        end = time.perf_counter() + seconds
        while (now := time.perf_counter()) < end:
            points = {f"train/curve_{curve}": now + curve for curve in range(_NUM_CURVES)}
            self._timed(self.writer.log, points, self.num_steps)
            if self.num_steps % 100 == 0:
                self._validate(self.num_steps)
            self.num_steps += 1
            if not self._spool.exists():
                self.empty_at.append(time.perf_counter())
            time.sleep(max(0.0, _INTERVAL_S - (time.perf_counter() - now)))

    def _validate(self, step: int) -> None:
        self._file.write_text(f"step {step}")
        self.validated = str(step)
        self._timed(self.writer.log_file, self._file, "file.txt")
        self._timed(self.writer.log_table, [{"step": step, "wer": 0.1}] * 500, "table.json")
        self._timed(self.writer.log_tags, {"caspi.validated": str(step)})

    def _timed(self, call: Callable[..., None], *arguments: Any) -> None:
        began = time.perf_counter()
        call(*arguments)
        self.calls_s.append(time.perf_counter() - began)


if __name__ == "__main__":
    main()
