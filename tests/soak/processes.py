"""The processes of an endpoint that this process started: their ids, their memory, their end."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import psutil
from scipy.stats import theilslopes

MODEL, INGRESS = "TranscriptionModel", "Ingress"

KINDS = {
    MODEL: f"ray::ServeReplica:caspi:{MODEL}",
    INGRESS: f"ray::ServeReplica:caspi:{INGRESS}",
    "proxy": "ray::ProxyActor",
    "controller": "ray::ServeController",
    "board": "ray::Board",
}
"""How the titles of an endpoint's processes begin."""


def replicas(deployment: str) -> list[int]:
    """Process ids of a deployment's replicas, of the Ray that this process started and no other."""
    return [process.pid for kind, process in _endpoint() if kind == deployment]


def kill(pid: int) -> None:
    """End a process as the machine's memory guard does."""
    os.kill(pid, signal.SIGKILL)


def wait_for_replicas(deployment: str, count: int, *, timeout_s: float = 60) -> list[int]:
    """The process ids, once there are so many. That they run does not say that they are ready."""
    deadline = time.monotonic() + timeout_s
    while len(found := replicas(deployment)) < count:
        assert time.monotonic() < deadline, f"{len(found)} of {count} replicas of {deployment} after {timeout_s:.0f} s"
        time.sleep(0.1)
    return found


def _endpoint() -> Iterator[tuple[str, psutil.Process]]:
    """Each process with its kind."""
    for process in psutil.Process().children(recursive=True):
        title = _title(process)
        for kind, begins in KINDS.items():
            if title.startswith(begins):
                yield kind, process


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


@dataclass
class Watch:
    """What the endpoint's processes took, again and again.

    Memory is what a process has for itself: pages of Ray's object store, which all of them map and whose size is fixed,
    would be counted in each that has touched them, and the longer a process lives the more it has touched.
    """

    times_s: list[float] = field(default_factory=list)
    descriptors: list[int] = field(default_factory=list)
    by_kind_mb: dict[str, list[float]] = field(default_factory=lambda: {kind: [] for kind in KINDS})

    @property
    def memory_mb(self) -> list[float]:
        """Of all processes together."""
        return [sum(each) for each in zip(*self.by_kind_mb.values(), strict=True)]

    def slope_mb_per_minute(self, *, after_s: float) -> float:
        """Growth of memory after the warm-up: the median of slopes, which replicas that start anew do not bend."""
        return _slope(self.times_s, self.memory_mb, after_s)

    def slopes_by_kind(self, *, after_s: float) -> str:
        """The same of each kind of process, to print."""
        slopes = {kind: _slope(self.times_s, values, after_s) for kind, values in self.by_kind_mb.items()}
        return ", ".join(f"{kind} {slope:+.2f} of {self.by_kind_mb[kind][-1]:.0f} MB" for kind, slope in slopes.items())

    def descriptor_slope_per_minute(self, *, after_s: float) -> float:
        return _slope(self.times_s, self.descriptors, after_s)


def _slope(times_s: list[float], values: list[float] | list[int], after_s: float) -> float:
    kept = [(at, value) for at, value in zip(times_s, values, strict=True) if at >= after_s]
    assert len(kept) >= 10, f"{len(kept)} measurements after {after_s:.0f} s are too few"
    return 60 * float(theilslopes([value for _, value in kept], [at for at, _ in kept]).slope)


@contextmanager
def watching(*, every_s: float = 1.0) -> Iterator[Watch]:
    """Measure for as long as the block runs."""
    watch, stopped, began = Watch(), threading.Event(), time.monotonic()

    def measure() -> None:
        while not stopped.wait(every_s):
            memory_mb = dict.fromkeys(KINDS, 0.0)
            descriptors = 0
            for kind, process in _endpoint():
                try:
                    memory = process.memory_info()
                    memory_mb[kind] += (memory.rss - memory.shared) / 2**20
                    descriptors += process.num_fds()
                except psutil.Error:
                    continue  # it has just ended
            watch.times_s.append(time.monotonic() - began)
            watch.descriptors.append(descriptors)
            for kind, values in watch.by_kind_mb.items():
                values.append(memory_mb[kind])

    thread = threading.Thread(target=measure, daemon=True)
    thread.start()
    try:
        yield watch
    finally:
        stopped.set()
        thread.join()
