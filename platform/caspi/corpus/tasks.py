"""Work for the cluster, with Ray Data: an item a task, a core a task, tables as they come."""

import contextlib
import errno
import os
import pickle
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pyarrow as pa

from caspi.errors import CaspiError, StorageError

# Items of one task at most, so that a cluster that grows finds tasks to take; more only where there would be more tasks
# than Ray keeps records of with ease.
_MAX_ITEMS = 16
_MAX_TASKS = 20_000

_FULL = (errno.ENOSPC, errno.EDQUOT)


def run(function: Callable[..., Iterator[pa.Table]], work: Sequence[Any], *arguments: Any) -> Iterator[pa.Table]:
    """Run `function(item, *arguments)` for every item of `work` somewhere; yields its tables as they come.

    Raises:
        CaspiError: as a task raised it. Anything else that a task raises arrives as Ray's error with its traceback.
    """
    import ray

    if not work:
        return
    num_cpus = int(ray.cluster_resources().get("CPU", 1))
    groups = [pickle.dumps(group) for group in share(work, num_cpus)]
    items = pa.table({"items": pa.array(groups, pa.large_binary())})
    with _small_blocks():
        dataset = ray.data.from_arrow([items.slice(place, 1) for place in range(len(items))]).map_batches(
            _run_items,
            batch_size=1,
            batch_format="pyarrow",
            num_cpus=1,
            fn_kwargs={"function": function, "arguments": arguments},
        )
    try:
        yield from dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0)
    except ray.exceptions.RayError as error:
        raise _explain(error) from error


def share(work: Sequence[Any], num_cpus: int) -> Iterator[Sequence[Any]]:
    """Deal items to tasks, many at first and one at last: few tasks, and nobody waits long for the last.

    Ray Data takes two tenths of a second from the end of a task to the start of the next on the same core (2.60: it
    waits for a tenth whether something came or not), and it and Ray keep a record of every task.
    """
    start, most = 0, max(_MAX_ITEMS, -(-len(work) // _MAX_TASKS))
    while start < len(work):
        size = min(most, max(1, (len(work) - start) // (2 * num_cpus)))
        yield work[start : start + size]
        start += size


@contextlib.contextmanager
def _small_blocks() -> Iterator[None]:
    """Let tables arrive one by one, and not when their task is done or 128 MiB have come together."""
    import ray

    context = ray.data.DataContext.get_current()
    usual, context.target_max_block_size = context.target_max_block_size, 1
    try:
        yield
    finally:
        context.target_max_block_size = usual


def _run_items(
    batch: pa.Table, function: Callable[..., Iterator[pa.Table]], arguments: tuple[Any, ...]
) -> Iterator[pa.Table]:
    for items in batch["items"].to_pylist():
        for item in pickle.loads(items):
            yield from function(item, *arguments)


def _explain(error: BaseException) -> BaseException:
    """Our own error, if one of ours or a full disk is behind Ray's; Ray puts words of its own around it."""
    causes = [error]
    while (cause := getattr(causes[-1], "cause", None) or causes[-1].__cause__) is not None:
        causes.append(cause)
    for cause in reversed(causes):
        if isinstance(cause, CaspiError):
            return cause
        if isinstance(cause, OSError) and is_full(cause):
            return full_disk(cause)
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
