"""What a plan is made of: utterances, their repetitions, and clips without speech, each as one int64.

An utterance is its position in the length index, with the number of its copy above. A clip without speech is negative:
its number holds the shard that it goes with, and its place there. The functions take single items and arrays alike.
"""

from typing import Any

import numpy as np

_POSITION_BITS = 40
_PLACE_BITS = 20


def utterance_items(positions: np.ndarray, copies: np.ndarray) -> np.ndarray:
    """Items of utterances; the first copy's item is the position itself."""
    return positions.astype(np.int64) | copies.astype(np.int64) << _POSITION_BITS


def silence_items(shard: int, count: int) -> np.ndarray:
    """Items of the clips without speech that go with a shard."""
    return -1 - (np.arange(count, dtype=np.int64) | shard << _PLACE_BITS)


def is_silence(items: Any) -> Any:
    return items < 0


def position_of(items: Any) -> Any:
    """Where an utterance stands in the length index."""
    return items & ((1 << _POSITION_BITS) - 1)


def copy_of(items: Any) -> Any:
    """How often the utterance came before in its epoch."""
    return items >> _POSITION_BITS


def silence_number(items: Any) -> Any:
    """What a clip without speech is drawn from, beside seed and epoch."""
    return -1 - items


def silence_shard(items: Any) -> Any:
    """The shard that a clip without speech goes with."""
    return silence_number(items) >> _PLACE_BITS
