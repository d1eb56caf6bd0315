"""Random numbers that depend on what they are for and on nothing that happened before: a resumed run repeats them."""

import zlib

import numpy as np


def draw(seed: int, epoch: int, what: str, number: int = 0) -> np.random.Generator:
    """The random numbers of one thing in one epoch: of an utterance and its copy, of a window of shards, and so on."""
    return np.random.default_rng([seed, epoch, zlib.crc32(what.encode()), number])
