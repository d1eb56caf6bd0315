"""An end for decoders that hang inside C, where no Python exception and no signal handler can reach them."""

import faulthandler
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import IO

# Of the time that is given: how early the end may come.
_EARLY_S, _EARLY_SHARE = 1.0, 0.1


@contextmanager
def deadline(seconds: float) -> Iterator[Callable[[], None]]:
    """End the whole process with exit code 1, and without a word, if the body takes longer than `seconds`.

    For processes that somebody supervises: Ray starts a new worker, `IsolatedDecoder` a new child. It holds even
    against code that never gives the interpreter's lock back. There is one such clock in a process, so bodies must not
    be nested or run in several threads.

    Entering and leaving cost about 55 us together, for a thread is started. A body that handles many short recordings
    calls what it is given before each, which sets the clock back at a fifth of a microsecond, once a second in truth,
    or a tenth of `seconds`: the end may come so much earlier.
    """
    every_s = min(_EARLY_S, _EARLY_SHARE * seconds)
    armed_at = _arm(seconds)

    def start_again() -> None:
        nonlocal armed_at
        if time.monotonic() - armed_at >= every_s:
            armed_at = _arm(seconds)

    try:
        yield start_again
    finally:
        faulthandler.cancel_dump_traceback_later()


def _arm(seconds: float) -> float:
    faulthandler.dump_traceback_later(seconds, exit=True, file=_nowhere())
    return time.monotonic()


@cache
def _nowhere() -> IO[str]:
    return open(os.devnull, "w")
