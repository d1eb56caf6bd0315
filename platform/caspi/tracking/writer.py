"""The single writer of a run's curves. Training never waits for MLflow, and no point is lost or doubled."""

import contextlib
import functools
import json
import logging
import math
import queue
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from caspi.tracking.client import QUIET, environment

logger = logging.getLogger(__name__)

_MAX_WAITING = (
    10_000  # calls of `log` that wait for the side thread; it takes them in milliseconds unless the disk hangs
)
_MAX_METRICS_PER_REQUEST = 1000  # MLflow's limit
_REQUEST_TIMEOUT_S = 10.0
_PAUSE_S = 0.2  # between two looks at the queue: points travel together
_RETRY_S = 2.0


@dataclass(frozen=True, slots=True)
class Point:
    """One value of one curve. A run has at most one for each key and step."""

    key: str
    value: float
    step: int
    timestamp_ms: int

    @property
    def place(self) -> tuple[str, int]:
        """What makes it the same point, whatever value a repeated step gave."""
        return self.key, self.step


class MetricWriter:
    """Logs metrics to a run from a side thread. Use one at a time for a run: rank 0's.

    Points go from memory into `spool`, a JSON-lines file, and from there to the server, which may be away for hours.
    What is still in the spool when the process dies is sent by the next writer that gets the same file, so put it where
    the resumed run finds it. A key and step that the server or the spool already has is dropped: a run that resumes
    from a checkpoint repeats the steps after it.
    """

    def __init__(self, uri: str, run_id: str, *, spool: str | Path) -> None:
        self._server = _Server(uri, run_id)
        self._spool = _Spool(Path(spool), run_id)
        self._waiting: queue.Queue[list[Point]] = queue.Queue(_MAX_WAITING)
        self._pending: list[Point] = []  # what the server has not confirmed; the same points as in the spool
        self._seen: set[tuple[str, int]] = set()
        self._storing = threading.Lock()  # over the three above and the spool
        self._closing = threading.Event()
        self._num_dropped = 0
        self._thread = threading.Thread(target=self._run, name="caspi-metrics", daemon=True)
        self._thread.start()

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Take one value for each key, and return at once."""
        now = time.time_ns() // 1_000_000
        try:
            self._waiting.put_nowait([Point(key, float(value), int(step), now) for key, value in metrics.items()])
        except queue.Full:  # the disk hangs; training matters more
            self._num_dropped += len(metrics)

    def close(self, timeout_s: float = 30.0) -> int:
        """Send what is left, for up to `timeout_s`. Returns how many points did not get through; the spool has them."""
        self._closing.set()
        self._thread.join(timeout_s)
        self._store_waiting()  # the thread may still be inside a request that hangs
        num_left = len(self._pending)
        if num_left:
            logger.warning(
                "MLflow at %s did not take %d points; they wait in %s", self._server.uri, num_left, self._spool.path
            )
        if self._num_dropped:
            logger.warning(
                "dropped %d points, because %s could not be written in time", self._num_dropped, self._spool.path
            )
        return num_left + self._num_dropped

    def _run(self) -> None:
        """Move points from the queue to the spool to the server until closed and empty."""
        with self._storing:
            self._pending = self._spool.read()
            self._seen = {point.place for point in self._pending}
        while True:
            closing = self._closing.wait(_PAUSE_S)  # before storing: what was logged before close() is stored below
            self._store_waiting()
            reached = self._send_pending()
            if closing and not self._pending:
                return
            if not reached:
                # While closing, the caller's patience is the bound.
                self._closing.wait(_RETRY_S) if not closing else time.sleep(_PAUSE_S)

    def _store_waiting(self) -> None:
        """Move the points that wait in memory to the spool, but for those whose key and step are known."""
        with self._storing:
            taken: list[Point] = []
            with contextlib.suppress(queue.Empty):
                while True:
                    taken += self._waiting.get_nowait()
            fresh = _first_of_each_place(taken, self._seen)
            self._spool.append(fresh)
            self._pending += fresh

    def _send_pending(self) -> bool:
        """Send what the server takes. False: it is away."""
        while batch := self._pending[:_MAX_METRICS_PER_REQUEST]:
            try:
                self._server.send(batch)
            except _Unreachable as error:
                logger.info("MLflow is away, points wait in %s: %s", self._spool.path, error)
                return False
            with self._storing:
                del self._pending[: len(batch)]
                if not self._pending:
                    self._spool.clear()
        return True


def _first_of_each_place(points: Iterable[Point], seen: set[tuple[str, int]]) -> list[Point]:
    """The points whose key and step are new; these become seen."""
    fresh = []
    for point in points:
        if point.place not in seen:
            seen.add(point.place)
            fresh.append(point)
    return fresh


class _Spool:
    """The points that the server has not confirmed, on disk. A disk that is full costs durability, never the run."""

    def __init__(self, path: Path, run_id: str) -> None:
        self.path = path
        self._run_id = run_id

    def read(self) -> list[Point]:
        """What an earlier writer left, without a last line that a crash cut short."""
        try:
            lines = self.path.read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            return []
        return _first_of_each_place(self._parse(lines), set())

    def _parse(self, lines: Sequence[str]) -> Iterator[Point]:
        for line in lines:
            try:
                record = json.loads(line)
                run_id = record.pop("run_id")
                point = Point(**record)
            except (ValueError, TypeError, AttributeError, KeyError):
                logger.warning("%s: skipped a line that is cut short: %.80s", self.path, line)
                continue
            if run_id == self._run_id:
                yield point

    def append(self, points: Sequence[Point]) -> None:
        if not points:
            return
        lines = "".join(json.dumps({"run_id": self._run_id, **asdict(point)}) + "\n" for point in points)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as file:
                if file.tell() and not self._ends_with_newline():
                    file.write("\n")
                file.write(lines)
        except OSError as error:
            logger.warning("%s: points are kept in memory only: %s", self.path, error)

    def clear(self) -> None:
        try:
            self.path.unlink(missing_ok=True)
        except OSError as error:
            logger.warning("%s: cannot be emptied: %s", self.path, error)

    def _ends_with_newline(self) -> bool:
        with self.path.open("rb") as file:
            file.seek(-1, 2)
            return file.read(1) == b"\n"


class _Unreachable(Exception):
    """The server did not confirm; the points must be sent again."""


class _Refused(Exception):
    """The server will never take these points, for instance because of a key it does not allow."""


class _Server:
    """The two requests that a writer makes, each with a deadline and without MLflow's minutes of retries."""

    def __init__(self, uri: str, run_id: str) -> None:
        self.uri = uri
        self._run_id = run_id
        self._steps: dict[str, set[int]] = {}  # the steps that the server has, by key

    def send(self, points: Sequence[Point]) -> None:
        """Log the points that the server does not have. One that it refuses is reported and skipped.

        Raises:
            _Unreachable: it is not known whether they arrived.
        """
        try:
            new = [point for point in points if point.step not in self._known_steps(point.key)]
            if new:
                self._post_batch(new)
        except _Refused as error:
            if len(points) == 1:
                logger.warning("MLflow refused %s at step %d: %s", points[0].key, points[0].step, error)
                return
            half = len(points) // 2
            self.send(points[:half])
            self.send(points[half:])
        except _Unreachable:
            # It may have stored them and died before it could say so: look again before sending again.
            for point in points:
                self._steps.pop(point.key, None)
            raise
        else:
            for point in new:
                self._steps[point.key].add(point.step)

    def _known_steps(self, key: str) -> set[int]:
        if key not in self._steps:
            parameters = {"run_id": self._run_id, "metric_key": key}
            steps: set[int] = set()
            while True:
                page = self._request("GET", "metrics/get-history", params=parameters)
                steps |= {int(metric.get("step", 0)) for metric in page.get("metrics", [])}
                if not page.get("next_page_token"):
                    break
                parameters["page_token"] = page["next_page_token"]
            self._steps[key] = steps
        return self._steps[key]

    def _post_batch(self, points: Sequence[Point]) -> None:
        metrics = [
            {"key": point.key, "value": _json_number(point.value), "timestamp": point.timestamp_ms, "step": point.step}
            for point in points
        ]
        self._request("POST", "runs/log-batch", json={"run_id": self._run_id, "metrics": metrics})

    def _request(self, method: str, endpoint: str, **arguments: Any) -> dict[str, Any]:
        request, credentials, request_error = _mlflow_http()
        try:
            response = request(
                credentials(self.uri),
                f"/api/2.0/mlflow/{endpoint}",
                method,
                max_retries=0,
                timeout=_REQUEST_TIMEOUT_S,
                raise_on_status=False,
                **arguments,
            )
            if response.status_code == 400:
                raise _Refused(response.text[:300])
            if response.status_code != 200:
                raise _Unreachable(f"HTTP {response.status_code}: {response.text[:300]}")
            answer: dict[str, Any] = response.json()
        except (request_error, ValueError) as error:  # ValueError: something in between answered with a page of its own
            raise _Unreachable(str(error)) from error
        return answer


@functools.cache
def _mlflow_http() -> tuple[Any, Any, type[Exception]]:
    """MLflow's own request function: it knows every way to authenticate. Imported in the thread: it takes seconds."""
    with environment(QUIET, keep=True):
        from mlflow.exceptions import MlflowException
        from mlflow.utils.credentials import get_default_host_creds
        from mlflow.utils.rest_utils import http_request
    return http_request, get_default_host_creds, MlflowException


def _json_number(value: float) -> float | str:
    """MLflow's JSON spells what JSON has no number for: NaN, Infinity, -Infinity."""
    if math.isnan(value):
        return "NaN"
    return value if math.isfinite(value) else ("Infinity" if value > 0 else "-Infinity")
