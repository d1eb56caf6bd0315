"""How much one micro-batch may hold."""

from dataclasses import dataclass, replace
from typing import Self

from caspi.recipe.sections import Batches


@dataclass(frozen=True, slots=True)
class Bounds:
    """The most that one micro-batch may hold, padding and margin included. One utterance alone may exceed it."""

    max_micro_batch_s: float
    max_micro_batch_tokens: int | None = None

    @classmethod
    def fixed(cls, batches: Batches) -> Self | None:
        """The recipe's own. None: it leaves them to what fits."""
        if batches.max_micro_batch_s == "auto":
            return None
        return cls(batches.max_micro_batch_s, batches.max_micro_batch_tokens)

    def within(self, batches: Batches) -> Self:
        """Not more tokens than the recipe says."""
        given, own = batches.max_micro_batch_tokens, self.max_micro_batch_tokens
        return self if given is None else replace(self, max_micro_batch_tokens=min(given, own or given))
