"""How much longer a run will take, and what that costs, from how fast it has been since its workers started."""

from dataclasses import dataclass
from typing import Any

from caspi.recipe.sections import Training
from caspi.training.checkpoint import State


@dataclass
class Outlook:
    """What has been seen of a run's speed."""

    settings: Training
    num_steps: int
    judges_aside: bool
    _num_lines: int = 0
    _steps: int = 0
    _steps_s: float = 0.0
    _validation_s: float = 0.0  # of the newest: models that have learnt to stop are judged sooner

    def stepped(self, num_steps: int, seconds: float) -> None:
        """So many steps took so long, validations and checkpoints left out."""
        if self._num_lines == 1 and self._steps == 1:
            # The first step of a process says nothing of the others: the line that it has to itself is forgotten.
            self._steps, self._steps_s = 0, 0.0
        self._num_lines += 1
        self._steps += num_steps
        self._steps_s += seconds

    def judged(self, seconds: float) -> None:
        """A validation took so long."""
        self._validation_s = seconds

    def left(self, state: State, *, num_workers: int) -> dict[str, Any]:
        """`left_s`, and `left_cost` in `currency` where the recipe has a price."""
        steps_s = (self.num_steps - state.step) * self._steps_s / self._steps
        left_s = steps_s + self._validations_left(state) * self._validation_s
        cost = self.settings.cost
        if cost.price_per_hour is None:
            return {"left_s": left_s}
        price = cost.price_per_hour * num_workers * left_s / 3600
        return {"left_s": left_s, "left_cost": price, "currency": cost.currency}

    def _validations_left(self, state: State) -> int:
        """Those that training has to wait for: all, or the last one where they are done aside."""
        every = self.settings.validation.every_steps
        if self.judges_aside:
            return 1
        if every is None:
            return self.settings.epochs - state.epoch
        return -(-self.num_steps // every) - state.step // every


def num_validations(settings: Training, num_steps: int) -> int:
    """Validations of a whole run: before the first step, every so many steps or each epoch, and at the end."""
    return 1 + Outlook(settings, num_steps, judges_aside=False)._validations_left(State())
