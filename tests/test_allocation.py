"""Whether freed memory is used again, told by the pages that the system had to fetch."""

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
from caspi import allocation

def fetched():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def work():
    pieces = [np.ones(int(sys.argv[2]), np.float32) for _ in range(10)]

if sys.argv[1] != "usual":
    getattr(allocation, sys.argv[1])()
began = fetched()
work()
once = fetched() - began
for _ in range({_NUM_ROUNDS}):
    work()
print((fetched() - began) / once)
"""


def rounds(way: str, size: int) -> float:
    """How often the pages of ten pieces of so many numbers were fetched in all."""
    done = subprocess.run([sys.executable, "-c", _PROGRAM, way, str(size)], capture_output=True, text=True, check=True)
    return float(done.stdout)


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="another C library than glibc")
@pytest.mark.parametrize(
    ("way", "size"),
    [
        ("keep_freed_memory", 200_000),
        ("keep_freed_memory_of_any_size", 200_000),
        ("keep_freed_memory_of_any_size", 10_000_000),  # 40 MB each: more than the other one keeps
    ],
)
def test_pages_are_fetched_once_and_not_for_every_piece(way: str, size: int):
    assert rounds(way, size) < 3
    assert rounds("usual", size) > _NUM_ROUNDS / 3
