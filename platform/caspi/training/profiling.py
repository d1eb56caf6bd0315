"""Where the time of a step goes: seconds by part in every step, and a whole trace of a few when asked for.

RUN/
  profile/rank-0.json.gz   a trace of each rank, in Chrome's format

A step's parts are `wait` (for data), `forward`, `backward`, `reduce` (totals and gradients over all ranks, and waiting
for the slowest of them) and `optimizer` (zeroing gradients, clipping, the update).
"""

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from torch.profiler import record_function

from caspi.errors import RequestError

Part = Literal["forward", "backward", "reduce", "optimizer"]
PARTS = ("wait", "forward", "backward", "reduce", "optimizer")
SPAN = "caspi/{part}"
"""What a part is called in a trace."""

_WARM_UP = 2  # steps of a run that are not like those that follow: caches, buffers and kernels are made

Item = TypeVar("Item")


class StepClock:
    """How long the parts of one step take. On a GPU by events, so that nothing waits for it."""

    def __init__(self, device: torch.device) -> None:
        self._is_gpu = device.type == "cuda"
        self._spans: list[tuple[str, Any, Any]] = []

    @contextlib.contextmanager
    def part(self, name: Part) -> Iterator[None]:
        """Count what happens inside, also when it fails. A part may come several times."""
        with record_function(SPAN.format(part=name)):
            started = self._now()
            try:
                yield
            finally:
                self._spans.append((name, started, self._now()))

    def seconds(self) -> dict[str, float]:
        """Seconds by part. To be asked when the device has done all of it."""
        totals = dict.fromkeys((name for name, _, _ in self._spans), 0.0)
        for name, started, ended in self._spans:
            totals[name] += started.elapsed_time(ended) / 1000 if self._is_gpu else ended - started
        return totals

    def _now(self) -> Any:
        if not self._is_gpu:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event


def waiting(feed: Iterator[Item]) -> Iterator[tuple[Item, float]]:
    """Each item with the seconds that it was waited for."""
    while True:
        started = time.perf_counter()
        with record_function(SPAN.format(part="wait")):
            try:
                item = next(feed)
            except StopIteration:
                return
        yield item, time.perf_counter() - started


def check_profile(num_wanted: int, *, num_steps: int) -> None:
    """Refuse to trace more steps than a run has after its first ones.

    Raises:
        RequestError: it is too short, or the number makes no sense.
    """
    if num_wanted < 0 or (num_wanted and num_wanted + _WARM_UP > num_steps):
        raise RequestError(
            f"--profile {num_wanted}: the run has {num_steps} steps, and the first {_WARM_UP} are not traced; "
            f"expected a number from 1 to {max(1, num_steps - _WARM_UP)}"
        )


class Trace:
    """A trace of a few steps of one rank, after the first ones."""

    def __init__(self, folder: Path, *, rank: int, num_steps: int) -> None:
        """`num_steps` of 0: no trace."""
        self.path = folder / f"rank-{rank}.json.gz"
        self._first, self._end = _WARM_UP, _WARM_UP + num_steps
        self._num_seen = 0
        self._profile: torch.profiler.profile | None = None

    def step(self) -> bool:
        """Count a step, and begin or end where it is time. Returns whether the trace has just been written."""
        self._num_seen += 1
        if self._num_seen == self._first < self._end:
            # Backward passes and reading run in threads of their own.
            config = torch.profiler._ExperimentalConfig(profile_all_threads=True)
            self._profile = torch.profiler.profile(experimental_config=config)
            self._profile.start()
        return self._num_seen == self._end and self.close()

    def close(self) -> bool:
        """Write what has been traced, if anything is being traced. Returns whether it was."""
        if self._profile is None:
            return False
        self._profile.stop()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._profile.export_chrome_trace(str(self.path))
        self._profile = None
        return True
