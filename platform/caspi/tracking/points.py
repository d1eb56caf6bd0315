"""Points of curves on their way to MLflow: on disk until the server has confirmed them, each sent once."""

import json
import logging
import math
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from caspi.tracking.rest import Refused, Rest, Unreachable

logger = logging.getLogger(__name__)

_MAX_METRICS_PER_REQUEST = 1000  # MLflow's limit


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


class PointOutbox:
    """The points that the server has not confirmed, in memory and in a JSON-lines file.

    One thread stores, another one sends.
    """

    def __init__(self, rest: Rest, path: Path) -> None:
        self._curves = _Curves(rest)
        self._spool = _Spool(path, rest.run_id)
        self._pending: list[Point] = []
        self._seen: set[tuple[str, int]] = set()
        self._lock = threading.Lock()  # over the two above and the file

    def __len__(self) -> int:
        return len(self._pending)

    def has_until(self, step: int) -> bool:
        """Whether a point of this step or an earlier one still waits."""
        with self._lock:
            return any(point.step <= step for point in self._pending)

    def restore(self) -> None:
        """Take over what an earlier process left in the file."""
        with self._lock:
            self._pending = self._spool.read()
            self._seen = {point.place for point in self._pending}

    def store(self, points: Iterable[Point]) -> None:
        """Keep the points until they are sent, but for those whose key and step are known."""
        with self._lock:
            fresh = _first_of_each_place(points, self._seen)
            self._spool.append(fresh)
            self._pending += fresh

    def send(self) -> None:
        """Send what waits.

        Raises:
            Unreachable: the server did not confirm; what it did not confirm goes on waiting.
        """
        while batch := self._pending[:_MAX_METRICS_PER_REQUEST]:
            self._curves.send(batch)
            with self._lock:
                del self._pending[: len(batch)]
                if not self._pending:
                    self._spool.clear()


def _first_of_each_place(points: Iterable[Point], seen: set[tuple[str, int]]) -> list[Point]:
    """The points whose key and step are new; these become seen."""
    fresh = []
    for point in points:
        if point.place not in seen:
            seen.add(point.place)
            fresh.append(point)
    return fresh


class _Spool:
    """The file. A disk that is full costs durability, never the run."""

    def __init__(self, path: Path, run_id: str) -> None:
        self._path = path
        self._run_id = run_id
        self._failed = False

    def read(self) -> list[Point]:
        """What an earlier writer left, without a last line that a crash cut short."""
        try:
            lines = self._path.read_text(encoding="utf-8", errors="replace").splitlines()
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
                logger.warning("%s: skipped a line that is cut short: %.80s", self._path, line)
                continue
            if run_id == self._run_id:
                yield point

    def append(self, points: Sequence[Point]) -> None:
        if not points:
            return
        lines = "".join(json.dumps({"run_id": self._run_id, **asdict(point)}) + "\n" for point in points)
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("a", encoding="utf-8") as file:
                if file.tell() and not self._ends_with_newline():
                    file.write("\n")
                file.write(lines)
        except OSError as error:
            if not self._failed:
                logger.warning("%s: points are kept in memory only: %s", self._path, error)
            self._failed = True
        else:
            self._failed = False

    def clear(self) -> None:
        try:
            self._path.unlink(missing_ok=True)
        except OSError as error:
            logger.warning("%s: cannot be emptied: %s", self._path, error)

    def _ends_with_newline(self) -> bool:
        with self._path.open("rb") as file:
            file.seek(-1, 2)
            return file.read(1) == b"\n"


class _Curves:
    """A run's curves on the server."""

    def __init__(self, rest: Rest) -> None:
        self._rest = rest
        self._steps: dict[str, set[int]] = {}  # the steps that the server has, by key

    def send(self, points: Sequence[Point]) -> None:
        """Log the points that the server does not have. One that it refuses is reported and skipped.

        Raises:
            Unreachable: it is not known whether they arrived.
        """
        try:
            new = [point for point in points if point.step not in self._known_steps(point.key)]
            if new:
                self._post(new)
        except Refused as error:
            if len(points) == 1:
                self._check_run_is_active()
                logger.warning("MLflow refused %s at step %d: %s", points[0].key, points[0].step, error)
                return
            half = len(points) // 2
            self.send(points[:half])
            self.send(points[half:])
        except Unreachable:
            # It may have stored them and died before it could say so: look again before sending again.
            for point in points:
                self._steps.pop(point.key, None)
            raise
        else:
            for point in new:
                self._steps[point.key].add(point.step)

    def _known_steps(self, key: str) -> set[int]:
        if key not in self._steps:
            self._steps[key] = {point.step for point in history(self._rest, key)}
        return self._steps[key]

    def _post(self, points: Sequence[Point]) -> None:
        self._rest.call("POST", "runs/log-batch", json={"run_id": self._rest.run_id, "metrics": metrics_json(points)})

    def _check_run_is_active(self) -> None:
        """A run that is not there refuses everything, and somebody may restore it: its points wait."""
        try:
            is_active = self._rest.run()["info"].get("lifecycle_stage") == "active"
        except Refused:
            is_active = False
        if not is_active:
            raise Unreachable(f"run {self._rest.run_id} was deleted there; restore it in MLflow")


def history(rest: Rest, key: str) -> Iterator[Point]:
    """Every point of a curve that the server has."""
    parameters = {"run_id": rest.run_id, "metric_key": key}
    while True:
        page = rest.call("GET", "metrics/get-history", params=parameters)
        for metric in page.get("metrics", []):
            yield Point(key, float(metric["value"]), int(metric.get("step", 0)), int(metric["timestamp"]))
        if not page.get("next_page_token"):
            return
        parameters["page_token"] = page["next_page_token"]


def metrics_json(points: Iterable[Point]) -> list[dict[str, Any]]:
    """Points as MLflow's requests spell them."""
    return [
        {"key": point.key, "value": _json_number(point.value), "timestamp": point.timestamp_ms, "step": point.step}
        for point in points
    ]


def _json_number(value: float) -> float | str:
    """MLflow's JSON spells what JSON has no number for: NaN, Infinity, -Infinity."""
    if math.isnan(value):
        return "NaN"
    return value if math.isfinite(value) else ("Infinity" if value > 0 else "-Infinity")
