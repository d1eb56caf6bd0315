"""Work for the cluster, as plain Ray tasks: an item or a few a task, a core a task, tables as they come.

Not Ray Data: it leaves a core idle for two tenths of a second between two tasks, and all that it would carry for us is
a list of items that the driver has anyway (docs/decisions/0010).
"""

import errno
import logging
import os
import pickle
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import chain, islice
from typing import Any

import pyarrow as pa

from caspi.allocation import keep_freed_memory
from caspi.errors import CaspiError, StorageError

logger = logging.getLogger(__name__)

# The share of the rest that one task takes, by core, and the most: few tasks where there are millions of items, one
# item a task at the end, so that nobody waits long for the last.
_SHARE, _MAX_ITEMS = 8, 16

# Tasks for each core that are there before they can run: the next starts when one ends, and a cluster that grows by
# what waits for it sees something wait.
_AHEAD = 2

# A task may lose its worker to each of its items once, and to the cluster's own mishaps.
_MAX_RETRIES = _MAX_ITEMS + 8

# A chunk of many recordings that all take their decoders' time limit is slow, and not hung.
_QUIET_S, _PATIENCE_S = 600, 24 * 3600
_FETCH_S = 600  # for results that are ready
_CANCEL_S = 10

_KEPT = "What was done is kept: give the same command again, and it goes on from there"
_FULL = (errno.ENOSPC, errno.EDQUOT)

Function = Callable[..., Iterable[pa.Table]]


def run(function: Function, work: Sequence[Any], *arguments: Any, memory_bytes: int) -> Iterator[pa.Table]:
    """Run `function(item, *arguments)` for every item of `work` somewhere; yields its tables as they come.

    A task whose worker or machine dies is done again elsewhere. `memory_bytes` is what a task may need, so that no
    more of them run on a machine than its memory bears.

    Raises:
        CaspiError: as a task raised it; or tasks die again and again, or do not come to an end. Anything else that a
            task raises arrives as Ray's error with its traceback.
    """
    import ray

    if not work:
        return
    task = ray.remote(
        num_cpus=1, memory=_affordable(memory_bytes), scheduling_strategy="SPREAD", max_retries=_MAX_RETRIES
    )(run_items)
    job = pickle.dumps((function, arguments))
    groups = share(work, _num_cpus())
    running: list[ray.ObjectRef[list[pa.Table]]] = []
    tables: Iterable[pa.Table] = ()
    try:
        while True:
            room = _AHEAD * _num_cpus() - len(running)
            running += [task.remote(job, pickle.dumps(group)) for group in islice(groups, max(room, 0))]
            yield from tables
            if not running:
                return
            done, running = _wait(running)
            tables = chain.from_iterable(ray.get(done, timeout=_FETCH_S))
    except ray.exceptions.RayError as error:
        explained = _explain(error)
        if explained is error:
            raise
        raise explained from error
    finally:
        for each in running:
            ray.cancel(each)
        if running:
            ray.wait(running, num_returns=len(running), timeout=_CANCEL_S)  # or they write where we tidy up


def run_items(job: bytes, group: bytes) -> list[pa.Table]:
    """What a worker does: the items of a group, one after the other."""
    keep_freed_memory()
    function, arguments = _unpack(job)
    return [table for item in pickle.loads(group) for table in function(item, *arguments)]


@lru_cache(maxsize=1)
def _unpack(job: bytes) -> tuple[Function, tuple[Any, ...]]:
    """Every task of a job brings the same."""
    unpacked: tuple[Function, tuple[Any, ...]] = pickle.loads(job)
    return unpacked


def share(work: Sequence[Any], num_cpus: int) -> Iterator[Sequence[Any]]:
    """Deal items to tasks: where there are many, many at first, and one at last."""
    start = 0
    while start < len(work):
        size = min(_MAX_ITEMS, max(1, (len(work) - start) // (_SHARE * num_cpus)))
        yield work[start : start + size]
        start += size


def _num_cpus() -> int:
    """Of the cluster as it is now."""
    import ray

    return max(1, int(ray.cluster_resources().get("CPU", 0)))


def _affordable(memory_bytes: int) -> int:
    """At most what the largest machine has: Ray would wait for ever for more."""
    import ray

    sizes = [node["Resources"]["memory"] for node in ray.nodes() if "memory" in node["Resources"]]
    return int(min(memory_bytes, max(sizes, default=memory_bytes)))


def _wait(running: list[Any]) -> tuple[list[Any], list[Any]]:
    """Those that are done, one at least, and the others."""
    import ray

    for waited_s in range(0, _PATIENCE_S, _QUIET_S):
        done, _ = ray.wait(running, num_returns=1, timeout=_QUIET_S)
        if done:
            return ray.wait(running, num_returns=len(running), timeout=0)
        logger.warning(
            "no task ended for %d s, %d wait or run; `ray status` says why", waited_s + _QUIET_S, len(running)
        )
    raise CaspiError(
        f"none of {len(running)} tasks ended within {_PATIENCE_S / 3600:.0f} hours; `ray status` may say what they "
        f"wait for. {_KEPT}"
    )


def _explain(error: BaseException) -> BaseException:
    """Our own error, if one of ours or a full disk is behind Ray's; Ray puts words of its own around it."""
    import ray

    causes = [error]
    while (cause := getattr(causes[-1], "cause", None) or causes[-1].__cause__) is not None:
        causes.append(cause)
    for cause in reversed(causes):
        if isinstance(cause, CaspiError):
            return cause
        if isinstance(cause, OSError) and is_full(cause):
            return full_disk(cause)
    if isinstance(error, ray.exceptions.WorkerCrashedError | ray.exceptions.OutOfMemoryError):
        return CaspiError(
            f"a task lost its worker {_MAX_RETRIES + 1} times: {error}. Often it is memory that is short: lower "
            f"data.decoding.max_recording_s. {_KEPT}"
        )
    return error


def is_full(error: OSError) -> bool:
    """Did it fail for want of room?"""
    return error.errno in _FULL


def full_disk(error: OSError) -> StorageError:
    """What to say of a disk without room."""
    return StorageError(
        f"{os.strerror(error.errno or errno.ENOSPC)} for the output; what was done is kept: "
        "make room, give the same command again, and it goes on from there"
    )
