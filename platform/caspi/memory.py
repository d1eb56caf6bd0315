"""How much memory this process and all that it started use together."""

import contextlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path

_INTERVAL_S = 1.0


class PeakMemory:
    """The largest sum seen so far, in bytes. Zero where there is no /proc to read."""

    bytes = 0


@contextlib.contextmanager
def watch_memory() -> Iterator[PeakMemory]:
    """Sample the tree of processes below this one, from a thread, for as long as the block runs."""
    peak, done = PeakMemory(), threading.Event()

    def sample() -> None:
        while not done.wait(_INTERVAL_S):
            peak.bytes = max(peak.bytes, tree_memory(os.getpid()))

    thread = threading.Thread(target=sample, name="memory", daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        done.set()
        thread.join()


def tree_memory(root: int) -> int:
    """Proportional set size of a process and its descendants: shared pages count once among those that share them."""
    total = 0
    for process in (root, *descendants(root)):
        with contextlib.suppress(OSError, StopIteration):
            lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
            total += 1024 * int(next(line for line in lines if line.startswith("Pss:")).split()[1])
    return total


def descendants(root: int) -> list[int]:
    """Process ids of all that `root` started, and what they started."""
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            # The name may hold spaces and brackets; the parent is the second field behind the last bracket.
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(folder.name))
    found, waiting = [], [root]
    while waiting:
        started = children.get(waiting.pop(), [])
        found += started
        waiting += started
    return found
