"""What becomes of memory that this process has freed: it is kept, and nobody fetches and clears its pages again.

Nothing happens where the C library is another than glibc.
"""

import ctypes
from functools import cache

# mallopt's parameters (malloc.h of glibc).
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -3, -4, -8

_LARGEST_KEPT = 32 * 2**20  # more than that glibc does not allow; it is five minutes of float32 at 16 kHz
_MOST_KEPT = 128 * 2**20
_MOST_KEPT_OF_ANY_SIZE = 2**30

ONE_HEAP = {"MALLOC_ARENA_MAX": "1"}
"""Environment of a process all of whose threads share one heap."""


@cache
def keep_freed_memory() -> None:
    """Let this process keep up to 128 MiB that it freed, instead of handing it back to the system.

    For recordings: their samples are as large as what malloc returns at once, and every page of them is then fetched
    and cleared again for the next one: 6% of decoding and encoding, measured on a virtual machine. What is larger than
    32 MiB is still returned.
    """
    _set({_MMAP_THRESHOLD: _LARGEST_KEPT, _TRIM_THRESHOLD: _MOST_KEPT})


@cache
def keep_freed_memory_of_any_size() -> None:
    """Let this process keep up to 1 GiB that it freed, of pieces of every size.

    For training and transcribing on a CPU: the activations and logits of each batch are mostly larger than 32 MiB, and
    fetching and clearing their pages is a fifth of a step in training, and a sixth of transcribing. The memory is one
    heap, so gaps between what is still in use are kept too: a sixth more at the peak.

    Threads that allocate for the first time after this share that heap. One of their own, which glibc gives them
    otherwise, keeps at most 64 MiB in one piece: transcribing in such a thread is a quarter slower. A process that has
    threads already should be started with `ONE_HEAP` in its environment.
    """
    # One by one only pieces up to 32 MiB can be kept; so the others may not be mapped by themselves at all.
    _set({_MMAP_MAX: 0, _TRIM_THRESHOLD: _MOST_KEPT_OF_ANY_SIZE, _ARENA_MAX: 1})


def _set(parameters: dict[int, int]) -> None:
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for parameter, value in parameters.items():
            mallopt(parameter, value)
