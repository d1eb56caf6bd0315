"""Which split a recording falls into, and where the shuffle puts an utterance: by hash, each for itself."""

import hashlib
from collections.abc import Collection

from caspi.recipe.data import Splits


def draw_split(group: str, splits: Splits, drawn: Collection[str] = ("validation", "test")) -> str:
    """The split of a recording or speaker. It never changes when others are added.

    `drawn` are the splits that are drawn at all: a source with a test split of its own gives none of its rest to it.
    """
    place = int.from_bytes(_digest(f"split:{splits.seed}:{group}")[:8], "big") / 2**64
    test = splits.test if "test" in drawn else 0.0
    if place < test:
        return "test"
    if "validation" in drawn and place < test + splits.validation:
        return "validation"
    return "train"


def shuffle_key(name: str, seed: int) -> int:
    """Where an utterance, or a whole recording, stands in the global shuffle: 63 bits."""
    return int.from_bytes(_digest(f"shuffle:{seed}:{name}")[:8], "big") >> 1


def _digest(text: str) -> bytes:
    # A lone surrogate from somebody's JSON must not stop the job.
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
