"""The largest bounds that fit into a memory: looked for on a few steps of the run, by what a micro-batch is known to
need.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from caspi.audio import SAMPLE_RATE
from caspi.model.features import MIN_SAMPLES
from caspi.training.bounds import Bounds
from caspi.training.footprint import GIB, Load
from caspi.training.plan import EpochPlan
from caspi.training.survey import Surveyor


@dataclass(frozen=True, slots=True)
class Reserve:
    """What is left free: for what was not foreseen, and for what the allocator cannot use."""

    of_limit: float  # share of the memory that there is
    of_growth: float  # share of what a micro-batch takes
    num_bytes: float = 0.0

    def usable(self, limit: float) -> float:
        return (1 - self.of_limit) * limit - self.num_bytes

    def with_margin(self, base: float, growth: np.ndarray) -> np.ndarray:
        """What must be usable for micro-batches that take `growth` bytes above `base`."""
        return base + (1 + self.of_growth) * growth


RESERVES = {"cuda": Reserve(0.03, 0.10), "cpu": Reserve(0.02, 0.10, 0.15 * GIB)}
"""By the kind of device. Where workers compute on CPUs, batches that wait, validation and checkpoints being written are
in the same memory: between 0.12 and 0.14 GiB, measured."""


Needs = Callable[[np.ndarray], np.ndarray]
"""Loads, (num_micro_batches, fields of Load), to bytes, (num_micro_batches,)."""

_NUM_STEPS = 16
_HALVINGS = 9  # until the bound is known to a five-hundredth of the widest

NARROWEST_S = MIN_SAMPLES / SAMPLE_RATE  # by which every utterance is a micro-batch by itself


@dataclass(frozen=True)
class Sample:
    """A few steps of the first epoch, from all of it, and the utterances that are longest in seconds and in tokens."""

    surveyor: Surveyor

    def micro_batches(self, bounds: Bounds) -> tuple[list[np.ndarray], np.ndarray]:
        """The groups of items that bounds make of the sample, for all ranks, and their loads."""
        groups, loads = [self._outliers[:1], self._outliers[1:]], [self._outlier_loads]
        for step in self._steps:
            for rank in range(self.surveyor.num_workers):
                batches = self.surveyor.micro_batches(self._plan, int(step), rank, bounds)
                if batches is not None:
                    groups += batches.groups
                    loads.append(batches.loads)
        return groups, np.concatenate(loads)

    @cached_property
    def widest_s(self) -> float:
        """Seconds of the largest micro-batch where nothing bounds it: more can never be had at once."""
        groups, _ = self.micro_batches(Bounds(float("inf")))
        return max(float(len(group) * self._seconds(group).max()) for group in groups)

    def widest(self, needs: Needs, usable: float) -> Bounds | None:
        """The widest bounds whose micro-batches all need no more than `usable` bytes. None: some utterance alone does.

        The bound on tokens is what the largest of the sample has, for the steps that are not in it.
        """

        def fits(bound_s: float) -> bool:
            return bool(needs(self.micro_batches(Bounds(bound_s))[1]).max() <= usable)

        if not fits(NARROWEST_S):
            return None
        low, high = NARROWEST_S, self.widest_s
        if fits(high):
            low = high
        for _ in range(_HALVINGS if low < high else 0):
            middle = (low + high) / 2
            low, high = (middle, high) if fits(middle) else (low, middle)
        positions = self.micro_batches(Bounds(low))[1][:, Load.FIELDS.index("positions")]
        return Bounds(low, int(positions.max()))

    @property
    def _plan(self) -> EpochPlan:
        return self.surveyor.plans[0]

    @cached_property
    def _steps(self) -> np.ndarray:
        return np.unique(np.linspace(0, self._plan.num_steps - 1, _NUM_STEPS).astype(np.int64))

    @cached_property
    def _outliers(self) -> np.ndarray:
        index = self._plan.index
        return np.array([np.argmax(index.durations_s), np.argmax(index.num_tokens)])

    @cached_property
    def _outlier_loads(self) -> np.ndarray:
        return self.surveyor.describe(self._plan, [self._outliers[:1], self._outliers[1:]]).loads

    def _seconds(self, items: np.ndarray) -> np.ndarray:
        return self._plan.margin.seconds(self._plan.lengths(items)[0])
