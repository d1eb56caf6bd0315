"""A bound for what FFmpeg may allocate at once.

A container's tables are allocated by what its header claims: an MP4 of 8 kB that claims 50 million samples took
1.7 GB and six seconds. FFmpeg has a bound, 2 GB unless told otherwise, but PyAV does not hand it on, so the library
that PyAV has loaded is asked by name.
"""

import ctypes
import functools
import logging
import re

logger = logging.getLogger(__name__)

MAX_ALLOCATION_BYTES = 32 * 2**20
"""Three hours of AAC, or of Opus in frames of 20 ms, have an index of less than half of this."""


@functools.cache
def limit_allocations() -> bool:
    """Bound FFmpeg's allocations in this process from now on; whether its library was found. PyAV must be imported."""
    with open("/proc/self/maps", encoding="utf-8", errors="replace") as maps:
        found = re.search(r"\S+/libavutil[^\s/]*\.so[^\s/]*$", maps.read(), re.MULTILINE)
    if found is None:
        logger.warning("FFmpeg's allocations have no bound: libavutil is not among the loaded libraries")
        return False
    ctypes.CDLL(found[0]).av_max_alloc(ctypes.c_size_t(MAX_ALLOCATION_BYTES))
    return True
