"""A moving average of the trained weights, and the model that is kept of a run: averaged, its adapters merged."""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch

from caspi.model.adapters import merged
from caspi.recipe.learning import Ema as Settings
from caspi.training.sharding import share_of


class Ema:
    """The average of each trained weight over the steps so far, in fp32 and on the weight's own device."""

    def __init__(self, model: Any, settings: Settings) -> None:
        self._decay = settings.decay
        self._trained = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
        self.averages = {name: weight.detach().clone() for name, weight in self._trained.items()}

    @torch.no_grad()
    def restart(self) -> None:
        """Begin with the weights as they are."""
        for name, weight in self._trained.items():
            share_of(self.averages[name]).copy_(share_of(weight))

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after update `step`, counted from 1."""
        decay = min(self._decay, (1 + step) / (10 + step))
        averages, weights = ([*map(share_of, each.values())] for each in (self.averages, self._trained))
        torch._foreach_lerp_(averages, weights, 1 - decay)

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Within the block the model has the averages for weights, and `averages` the weights."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    @torch.no_grad()
    def _exchange(self) -> None:
        """Of contents and not of memory: what is gathered of a sharded layer is read where its share lies."""
        for name, weight in self._trained.items():
            own, average = share_of(weight), share_of(self.averages[name])
            held = own.clone()
            own.copy_(average)
            average.copy_(held)


@contextlib.contextmanager
def kept(model: Any, ema: Ema | None) -> Iterator[None]:
    """Within the block the model is the one that would be kept of the run as it stands."""
    with ema.applied() if ema else contextlib.nullcontext(), merged(model):
        yield
