"""How often Python walks through the objects of this process, to find those in cycles that nobody reaches any more.

Torch, transformers and Ray make half a million objects when they are imported, all of which stay: walking through them
meanwhile is an eighth of the time that this takes, and freeing them one by one is another second at the end.
"""

import atexit
import contextlib
import gc
from collections.abc import Iterator
from functools import cache


@cache
def look_seldom() -> None:
    """A hundredth as often, and not at the end of the process. For commands, whose large objects are in no cycles."""
    gc.set_threshold(70_000, 10, 10)  # new objects; Python's own is 700
    atexit.register(gc.freeze)


@contextlib.contextmanager
def importing() -> Iterator[None]:
    """No walk while modules are imported, and none through what they made later on.

    For processes that train: tensors in a cycle hold a GPU's memory, and are to be found as early as ever.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.freeze()
