"""What a plan is made of: utterances, their repetitions, and clips without speech, each as one int64.

An utterance is its position in the length index, with the number of its copy above. Neighbours that are heard as one
clip are the first of them, with the number of the others above that. A clip without speech is negative: its number
holds the shard that it goes with, and its place there. The functions take single items and arrays alike.
"""

from typing import Any

import numpy as np

_POSITION_BITS = 40
_COPY_BITS = 12
_COUNT_BITS = 11
_PLACE_BITS = 20

MAX_JOINED = 1 << _COUNT_BITS
"""The most utterances that one item can hold."""


def utterance_items(positions: np.ndarray, copies: np.ndarray, counts: np.ndarray | int = 1) -> np.ndarray:
    """Items of `counts` utterances each, from a position on; the first copy's item of one is the position itself."""
    others = np.asarray(counts, np.int64) - 1
    above = copies.astype(np.int64) | others << _COPY_BITS
    return positions.astype(np.int64) | above << _POSITION_BITS


def silence_items(shard: int, count: int) -> np.ndarray:
    """Items of the clips without speech that go with a shard."""
    return -1 - (np.arange(count, dtype=np.int64) | shard << _PLACE_BITS)


def is_silence(items: Any) -> Any:
    return items < 0


def position_of(items: Any) -> Any:
    """Where an utterance, or the first of several, stands in the length index."""
    return items & ((1 << _POSITION_BITS) - 1)


def copy_of(items: Any) -> Any:
    """How often the utterance came before in its epoch."""
    return items >> _POSITION_BITS & ((1 << _COPY_BITS) - 1)


def count_of(items: Any) -> Any:
    """How many utterances the item holds: those from its position on."""
    return (items >> _POSITION_BITS + _COPY_BITS) + 1


def parts_of(items: np.ndarray) -> np.ndarray:
    """The utterances and silences of items one by one, as items: what was joined is taken apart."""
    silent = is_silence(items)
    heard = items[~silent]
    counts = count_of(heard)
    positions = spans(position_of(heard), counts)
    return np.concatenate([utterance_items(positions, np.repeat(copy_of(heard), counts)), items[silent]])


def spans(starts: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """`counts` numbers from each start on, one after the other: (counts.sum(),) int64."""
    firsts = np.cumsum(counts) - counts
    return np.arange(int(counts.sum())) + np.repeat(starts - firsts, counts)


def silence_number(items: Any) -> Any:
    """What a clip without speech is drawn from, beside seed and epoch."""
    return -1 - items


def silence_shard(items: Any) -> Any:
    """The shard that a clip without speech goes with."""
    return silence_number(items) >> _PLACE_BITS
