"""A moving average of the trained weights, and the model that is kept of a run: averaged, its adapters merged."""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch

from caspi.model.adapters import merged
from caspi.recipe.learning import Ema as Settings


class Ema:
    """The average of each trained weight over the steps so far, in fp32 and on the weight's own device."""

    def __init__(self, model: Any, settings: Settings) -> None:
        self._decay = settings.decay
        self._trained = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
        self.averages = {name: weight.detach().clone() for name, weight in self._trained.items()}

    def restart(self) -> None:
        """Begin with the weights as they are."""
        for name, weight in self._trained.items():
            self.averages[name].copy_(weight.detach())

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after update `step`, counted from 1."""
        decay = min(self._decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(list(self.averages.values()), list(self._trained.values()), 1 - decay)

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Within the block the model has the averages for weights. They change places; nothing is copied."""
        weights = {name: weight.data for name, weight in self._trained.items()}
        for name, weight in self._trained.items():
            weight.data = self.averages[name]
        try:
            yield
        finally:
            for name, weight in self._trained.items():
                weight.data = weights[name]


@contextlib.contextmanager
def kept(model: Any, ema: Ema | None) -> Iterator[None]:
    """Within the block the model is the one that would be kept of the run as it stands."""
    with ema.applied() if ema else contextlib.nullcontext(), merged(model):
        yield
