"""A tiny model that learns in one of the recipe's ways, without a run around it."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

import torch

from caspi.model import Batch, load
from caspi.recipe.sections import Training
from caspi.training import parameters
from caspi.training.checkpoint import Snapshot, State, restore
from caspi.training.ema import Ema
from caspi.training.step import Objective, StepResult, build_optimizer, train_step
from caspi.training.store import Store
from tests.training.one_step import batches


class Learner:
    """What a worker holds of a run, on one rank."""

    def __init__(self, start: Path, settings: dict[str, Any], *, share: int = 0) -> None:
        self.share = share  # which eight of the utterances it learns
        self.settings = Training.model_validate(settings)
        self.loaded = load(start)
        self.model = self.loaded.model.train()
        self.start = {name: weight.detach().clone() for name, weight in self.model.named_parameters()}
        parameters.prepare(self.model, self.settings)
        self.optimizer = build_optimizer(self.model, self.settings.optimizer)
        self.ema = Ema(self.model, self.settings.ema) if self.settings.ema else None
        self.step = 0

    def learn(
        self, num_steps: int = 1, *, per_batch: int = 8, before_forward: Callable[[Batch], None] | None = None
    ) -> Sequence[StepResult]:
        """Do updates from always the same eight utterances, so many in a micro-batch."""
        objective = Objective(torch.device("cpu"), autocast=None, max_grad_norm=1.0, before_forward=before_forward)
        return [self._update(per_batch, objective) for _ in range(num_steps)]

    def _update(self, per_batch: int, objective: Objective) -> StepResult:
        result = train_step(self.model, self.optimizer, self.batches(per_batch), objective)
        self.step += 1
        if self.ema:
            self.ema.update(self.step)
        return result

    def batches(self, per_batch: int = 8) -> list[Batch]:
        return batches(self.loaded, rank=self.share, world_size=8, per_batch=per_batch)

    def weights(self) -> dict[str, torch.Tensor]:
        return {name: weight.detach().clone() for name, weight in self.model.named_parameters()}

    def save(self, folder: Path) -> Path:
        """Write a checkpoint."""
        store = Store(folder)
        store.claim()
        return store.write(Snapshot.take(self.loaded, self.optimizer, State(step=self.step), self.ema), self.loaded)

    def restore(self, checkpoint: Path) -> Self:
        self.step = restore(checkpoint, self.loaded, self.optimizer, self.ema).step
        return self
