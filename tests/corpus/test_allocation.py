"""Whether a task's memory is used again, told by the pages that the system had to fetch."""

import ctypes
import subprocess
import sys
from pathlib import Path

import pytest

_NUM_ROUNDS = 50

_PROGRAM = f"""
import resource, sys
sys.path.insert(0, {str(Path.cwd() / "platform")!r})
import numpy as np
from caspi.corpus.allocation import keep_freed_memory

def fetched():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def work():
    recordings = [np.ones(200_000, np.float32) for _ in range(10)]

if sys.argv[1] == "keep":
    keep_freed_memory()
began = fetched()
work()
once = fetched() - began
for _ in range({_NUM_ROUNDS}):
    work()
print((fetched() - began) / once)
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="another C library than glibc")
def test_pages_are_fetched_once_and_not_for_every_recording():
    rounds = {}
    for way in ("keep", "usual"):
        done = subprocess.run([sys.executable, "-c", _PROGRAM, way], capture_output=True, text=True, check=True)
        rounds[way] = float(done.stdout)
    assert rounds["keep"] < 3
    assert rounds["usual"] > _NUM_ROUNDS / 3
