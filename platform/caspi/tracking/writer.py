"""The single writer of a run. Training never waits for MLflow, and nothing that it logs is lost or doubled."""

import contextlib
import logging
import queue
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from caspi.tracking.checkpoint_record import Checkpoint
from caspi.tracking.points import Point, PointOutbox
from caspi.tracking.rest import Rest, Unreachable
from caspi.tracking.uploads import Upload, UploadOutbox, table_json

logger = logging.getLogger(__name__)

# Calls that wait for the side thread; it takes them in milliseconds unless the disk hangs.
_MAX_WAITING = 10_000
_PAUSE_S = 0.2  # between two looks at what waits: points travel together
_RETRY_S = (0.5, 1.0, 2.0, 4.0, 8.0, 15.0)  # after the first failure, the second, ...
_FAILURES_WORTH_A_WARNING = 3


class MetricWriter:
    """Logs to a run from side threads. Use one at a time for a run: rank 0's.

    What is logged goes from memory to disk within milliseconds, and from there to MLflow, which may be away for hours.
    Points go into `spool`, a JSON-lines file; tags, files, tables and checkpoint records into a folder beside it. What
    is still there when the process dies is sent by the next writer that gets the same `spool`, so put it where the
    resumed run finds it. Points do not wait for uploads: the artifact store may be away alone.

    A key and step that the server or the spool already has is dropped: a run that resumes from a checkpoint repeats
    the steps after it. Of everything else the newest version stays. What MLflow refuses is reported and dropped.
    """

    def __init__(self, uri: str, run_id: str, *, spool: str | Path) -> None:
        rest = Rest(uri, run_id)
        self._uri, self._spool = uri, Path(spool)
        self._points = PointOutbox(rest, self._spool)
        self._uploads = UploadOutbox(rest, self._spool.with_suffix(".uploads"), points=self._points)
        self._waiting: queue.Queue[list[Point] | Upload] = queue.Queue(_MAX_WAITING)
        self._num_dropped = 0
        self._closing = threading.Event()
        self._all_is_stored = threading.Event()
        self._threads = [
            threading.Thread(target=self._store, name="caspi-spool", daemon=True),
            threading.Thread(target=self._deliver, args=(self._points,), name="caspi-points", daemon=True),
            threading.Thread(target=self._deliver, args=(self._uploads,), name="caspi-uploads", daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Take one value for each key, and return at once."""
        now = time.time_ns() // 1_000_000
        self._take([Point(key, float(value), int(step), now) for key, value in metrics.items()])

    def log_tags(self, tags: Mapping[str, str]) -> None:
        """Take tags of the run, and return at once."""
        for key, value in tags.items():
            self._take(Upload("tag", key, str(value)))

    def log_file(self, local: str | Path, artifact_path: str) -> None:
        """Take a file that is uploaded later, as the run's artifact `artifact_path`; it must stay where it is."""
        self._take(Upload("file", artifact_path, str(Path(local).absolute())))

    def log_table(self, rows: Sequence[Mapping[str, Any]], artifact_path: str) -> None:
        """Take a table that MLflow's pages show as one. It replaces the table that was at `artifact_path`.

        MLflow lists about a hundred tables of a run: rather let one grow than give each step its own.

        Raises:
            ValueError: `artifact_path` does not end in .json, by which MLflow's page knows how to read it.
            TypeError: a value is neither JSON nor a NumPy number.
        """
        if not artifact_path.endswith(".json"):
            raise ValueError(f"{artifact_path}: expected a name that ends in .json")
        self._take(Upload("table", artifact_path, table_json(rows)))

    def log_checkpoint(self, checkpoint: Checkpoint) -> None:
        """Take the record of a checkpoint, and its metrics as points. One of the same step is replaced."""
        self.log(checkpoint.metrics, checkpoint.step)
        self._take(Upload("checkpoint", str(checkpoint.step), checkpoint.to_json()))

    def forget_checkpoint(self, step: int) -> None:
        """Take note that a checkpoint was deleted: its record is removed. Its points stay in the curves."""
        self._take(Upload("no_checkpoint", str(step), ""))

    def close(self, timeout_s: float = 30.0) -> int:
        """Send what is left, for up to `timeout_s`. Returns how much did not get through; the spool has it."""
        deadline = time.monotonic() + timeout_s
        self._closing.set()
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        num_left = len(self._points) + len(self._uploads)
        if num_left:
            logger.warning(
                "MLflow at %s did not take %d points and %d uploads; they wait in %s*",
                self._uri, len(self._points), len(self._uploads), self._spool.with_suffix(""),
            )  # fmt: skip
        if self._num_dropped:
            logger.warning("dropped %d calls, because %s could not be written in time", self._num_dropped, self._spool)
        return num_left + self._num_dropped

    def _take(self, logged: list[Point] | Upload) -> None:
        try:
            self._waiting.put_nowait(logged)
        except queue.Full:  # the disk hangs; training matters more
            self._num_dropped += 1

    def _store(self) -> None:
        """Move what is logged from the queue to the outboxes, until closed and empty."""
        self._points.restore()
        self._uploads.restore()
        while True:
            is_last_look = self._closing.is_set()  # before the look: what was logged before close() is stored below
            with contextlib.suppress(queue.Empty):
                self._store_all([self._waiting.get(timeout=0.0 if is_last_look else _PAUSE_S)])
            if is_last_look:
                self._all_is_stored.set()
                return

    def _store_all(self, logged: list[list[Point] | Upload]) -> None:
        with contextlib.suppress(queue.Empty):
            while True:
                logged.append(self._waiting.get_nowait())
        # Points first: the record of a checkpoint waits for those that are known to be on their way.
        self._points.store(point for each in logged if isinstance(each, list) for point in each)
        self._uploads.store([each for each in logged if isinstance(each, Upload)])

    def _deliver(self, outbox: PointOutbox | UploadOutbox) -> None:
        """Send what is in an outbox until closed and empty."""
        num_failures = 0
        while True:
            is_last_look = self._all_is_stored.is_set()
            try:
                outbox.send()
            except Exception as error:  # whatever answers in MLflow's place: the thread must outlive it
                num_failures += 1
                if num_failures == _FAILURES_WORTH_A_WARNING:
                    logger.warning(
                        "MLflow at %s is away; what it misses waits in %s: %s",
                        self._uri, self._spool, error, exc_info=not isinstance(error, Unreachable),
                    )  # fmt: skip
            else:
                if num_failures >= _FAILURES_WORTH_A_WARNING:
                    logger.warning("MLflow at %s is back and has what it missed", self._uri)
                num_failures = 0
                if is_last_look:
                    return
            self._pause(num_failures)

    def _pause(self, num_failures: int) -> None:
        """Wait for more to send, or longer and longer for MLflow. While closing, the caller's patience is the bound."""
        if self._closing.is_set():
            time.sleep(_PAUSE_S if num_failures else 0.01)
        else:
            self._closing.wait(_RETRY_S[min(num_failures, len(_RETRY_S)) - 1] if num_failures else _PAUSE_S)
