"""Decoders for a child process to die of. Called as `decode` is."""

import ctypes
import os
import sys
import time
from typing import Any

import numpy as np

from caspi.audio import Audio, decode


def by_content(encoded: bytes, *, source: str, **options: Any) -> Audio:
    """Does what the recording says, as a damaged one does to a decoder with a fault."""
    if encoded == b"segfault":
        ctypes.string_at(0)
    if encoded == b"abort":
        os.abort()
    if encoded == b"exit":
        os._exit(0)
    if encoded == b"hang":
        # Through PyDLL, which keeps the interpreter's lock: no thread of Python's could end this.
        ctypes.PyDLL(None).sleep(600)
    if encoded == b"memory":
        hoard = [np.ones(2**24) for _ in range(1000)]
        return Audio(hoard[0], 16000)
    if encoded == b"bug":
        raise KeyError("a mistake of ours")
    if encoded == b"print":
        os.write(1, b"FFmpeg would like a word\n" * 100)
        print("so would Python", flush=True)
        print("on stderr too", file=sys.stderr, flush=True)
        return Audio(np.arange(5, dtype=np.float32), 16000, 48000, "noise")
    if encoded == b"nap":
        time.sleep(0.3)
        return Audio(np.zeros(3, np.float32), 16000)
    return decode(encoded, source=source, **options)
