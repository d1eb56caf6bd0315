"""What a run will have to do, known before it starts: its steps, its batches, and all that is in them."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np

from caspi.audio import SAMPLE_RATE
from caspi.corpus import Corpus
from caspi.model import Prompter
from caspi.model.features import HOP, MIN_SAMPLES
from caspi.model.flops import Workload
from caspi.recipe import Recipe
from caspi.recipe.sections import Collation, Training
from caspi.training.bounds import Bounds
from caspi.training.footprint import Load
from caspi.training.lengths import LengthIndex, audio_tokens
from caspi.training.plan import EpochPlan, plan_run


@dataclass(frozen=True, slots=True)
class Survey:
    """A run as its plan has it. Contexts are left out of `work`: the plan does not know which utterances have one."""

    num_workers: int
    num_steps: int
    num_micro_batches: int  # of all workers
    num_utterances: int  # repetitions and clips without speech included
    audio_s: float
    num_positions: int  # tokens with their padding
    work: Workload
    largest: Load
    step_work: tuple[Workload, ...]  # of each step, in their order: the whole is their sum

    @property
    def packing_efficiency(self) -> float:
        return self.work.tokens / self.num_positions


@dataclass(frozen=True, slots=True)
class MicroBatches:
    """Some micro-batches: what is in them, item by item, and how large each of them can become."""

    groups: tuple[np.ndarray, ...]  # items of the plan
    durations_s: np.ndarray
    num_tokens: np.ndarray
    num_heard: np.ndarray  # audio tokens
    num_logits: np.ndarray
    num_positions: int
    loads: np.ndarray  # (num_micro_batches, fields of Load), by the worst that augmentation and contexts may add


@dataclass(frozen=True)
class Surveyor:
    """Looks at the plan of a run, for so many workers."""

    plans: Sequence[EpochPlan]
    training: Training
    num_workers: int
    num_prompt_tokens: int  # of an utterance without audio and context: what is not supervised
    collation: Collation = "bucketed"

    @classmethod
    def of_run(
        cls,
        recipe: Recipe,
        corpus: Corpus,
        prompter: Prompter,
        lengths: Path,
        *,
        num_workers: int,
        collation: Collation,
    ) -> Self:
        """For a run of a recipe. Lengths are measured into the folder `lengths`, or read from there."""
        plans = plan_run(LengthIndex.build(corpus, prompter, lengths), recipe.training)
        return cls(plans, recipe.training, num_workers, len(prompter.prompt(0)), collation)

    def survey(self, config: Any, bounds: Bounds) -> Survey:
        """Go through every micro-batch of the run. A second for about two thousand steps of 1,400 s."""
        steps: list[Workload] = []
        sums = np.zeros(4)  # micro-batches, utterances, seconds, positions
        most = np.zeros(len(Load.FIELDS), np.int64)
        for plan in self.plans:
            for step in range(plan.num_steps):
                work = Workload()
                for rank in range(self.num_workers):
                    batches = self.micro_batches(plan, step, rank, bounds)
                    if batches is None:
                        continue
                    work += Workload.of(
                        config,
                        num_frames=_frames(batches.durations_s),
                        num_tokens=batches.num_tokens,
                        num_logits=float(batches.num_logits.sum()),
                    )
                    size, audio_s = len(batches.durations_s), batches.durations_s.sum()
                    sums += len(batches.groups), size, audio_s, batches.num_positions
                    most = np.maximum(most, batches.loads.max(0))
                steps.append(work)
        return Survey(
            num_workers=self.num_workers,
            num_steps=len(steps),
            num_micro_batches=int(sums[0]),
            num_utterances=int(sums[1]),
            audio_s=float(sums[2]),
            num_positions=int(sums[3]),
            work=sum(steps, Workload()),
            largest=Load(*map(int, most)),
            step_work=tuple(steps),
        )

    def micro_batches(self, plan: EpochPlan, step: int, rank: int, bounds: Bounds) -> MicroBatches | None:
        """What a rank computes of a step; None: nothing."""
        groups = plan.micro_batches(
            step, rank=rank, world_size=self.num_workers, collation=self.collation, **asdict(bounds)
        )
        return self.describe(plan, groups) if groups else None

    def describe(self, plan: EpochPlan, groups: Sequence[np.ndarray]) -> MicroBatches:
        """What is in some groups of items, of which there must be one."""
        durations_s, num_tokens = plan.lengths(np.concatenate(groups))
        heard = audio_tokens(durations_s)
        logits = num_tokens - heard - self.num_prompt_tokens
        if self.training.alignment_weight > 0:
            logits = logits + heard
        starts = np.cumsum([0, *map(len, groups[:-1])])
        most_tokens = plan.margin.tokens(num_tokens, durations_s)
        loads = {
            "positions": self._positions(most_tokens, starts),
            "audio_tokens": np.add.reduceat(audio_tokens(plan.margin.seconds(durations_s)), starts),
            "logits": np.add.reduceat(logits, starts),
            "longest": np.maximum.reduceat(most_tokens, starts),
        }
        return MicroBatches(
            groups=tuple(groups),
            durations_s=durations_s,
            num_tokens=num_tokens,
            num_heard=heard,
            num_logits=logits,
            num_positions=int(self._positions(num_tokens, starts).sum()),
            loads=np.stack([loads[name] for name in Load.FIELDS], axis=1),
        )

    def _positions(self, num_tokens: np.ndarray, starts: np.ndarray) -> np.ndarray:
        """What each group takes in the decoder, padding included, if its items have these tokens."""
        if self.collation == "packed":
            return np.add.reduceat(num_tokens, starts)
        sizes = np.diff([*starts, len(num_tokens)])
        positions: np.ndarray = sizes * np.maximum.reduceat(num_tokens, starts)
        return positions


def _frames(durations_s: np.ndarray) -> np.ndarray:
    samples = np.rint(durations_s * SAMPLE_RATE).astype(np.int64)
    frames: np.ndarray = np.maximum(samples, MIN_SAMPLES) // HOP
    return frames
