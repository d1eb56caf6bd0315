"""How the memory of a task is handled: what a recording leaves is kept for the next one."""

import ctypes
from functools import cache

# mallopt's parameters (malloc.h of glibc).
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3

_LARGEST_KEPT = 32 * 2**20  # more than that glibc does not allow; it is five minutes of float32 at 16 kHz
_MOST_KEPT = 128 * 2**20


@cache
def keep_freed_memory() -> None:
    """Let this process keep up to 128 MiB that it freed, instead of handing it back to the system.

    The samples of a recording are as large as what malloc returns at once, and every page of them is then fetched and
    cleared again for the next recording: 6% of decoding and encoding, measured on a virtual machine. What is larger
    than 32 MiB is still returned. Nothing happens where the C library is another than glibc.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_MMAP_THRESHOLD, _LARGEST_KEPT)
        mallopt(_TRIM_THRESHOLD, _MOST_KEPT)
