"""What a run will have to do, known before it starts: its steps, its batches, and all that is in them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from caspi.audio import SAMPLE_RATE
from caspi.corpus import Corpus
from caspi.model import Prompter
from caspi.model.features import HOP, MIN_SAMPLES
from caspi.model.flops import Workload
from caspi.recipe import Recipe
from caspi.recipe.sections import Training
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
class _Batches:
    """Some micro-batches: what is in them, item by item."""

    durations_s: np.ndarray
    num_tokens: np.ndarray
    starts: np.ndarray  # where each begins
    num_heard: np.ndarray  # audio tokens


def survey_run(
    recipe: Recipe, corpus: Corpus, config: Any, prompter: Prompter, lengths: Path, *, num_workers: int
) -> Survey:
    """What a run of a recipe will have to do. Lengths are measured into the folder `lengths`, or read from there."""
    return survey(
        plan_run(LengthIndex.build(corpus, prompter, lengths), recipe.training),
        recipe.training,
        config,
        num_workers=num_workers,
        num_prompt_tokens=len(prompter.prompt(0)),
    )


def survey(
    plans: Sequence[EpochPlan], training: Training, config: Any, *, num_workers: int, num_prompt_tokens: int
) -> Survey:
    """Go through every micro-batch of a run. A second for about two thousand steps of 1,400 s.

    Args:
        num_prompt_tokens: of an utterance without audio and context: what is not supervised.
    """
    with_alignment = training.alignment_weight > 0
    steps: list[Workload] = []
    sums = np.zeros(4)  # micro-batches, utterances, seconds, positions
    most = np.zeros(3, np.int64)
    for plan in plans:
        for step in range(plan.num_steps):
            work = Workload()
            for rank in range(num_workers):
                batches = _batches(plan, training, step, rank, num_workers)
                if batches is None:
                    continue
                supervised = batches.num_tokens - batches.num_heard - num_prompt_tokens
                logits = supervised + batches.num_heard * with_alignment
                work += Workload.of(
                    config,
                    num_frames=_frames(batches.durations_s),
                    num_tokens=batches.num_tokens,
                    num_logits=float(logits.sum()),
                )
                sizes = np.diff([*batches.starts, len(batches.num_tokens)])
                widths = np.maximum.reduceat(batches.num_tokens, batches.starts)
                sums += len(sizes), sizes.sum(), batches.durations_s.sum(), (sizes * widths).sum()
                most = np.maximum(most, _most(plan, batches, sizes, logits))
            steps.append(work)
    total = sum(steps, Workload())
    return Survey(
        num_workers=num_workers,
        num_steps=len(steps),
        num_micro_batches=int(sums[0]),
        num_utterances=int(sums[1]),
        audio_s=float(sums[2]),
        num_positions=int(sums[3]),
        work=total,
        largest=Load(*map(int, most)),
        step_work=tuple(steps),
    )


def _batches(plan: EpochPlan, training: Training, step: int, rank: int, num_workers: int) -> _Batches | None:
    """What a rank computes of a step; None: nothing."""
    groups = plan.micro_batches(
        step,
        rank=rank,
        world_size=num_workers,
        max_micro_batch_s=training.batches.max_micro_batch_s,
        max_micro_batch_tokens=training.batches.max_micro_batch_tokens,
    )
    if not groups:
        return None
    durations_s, num_tokens = plan.lengths(np.concatenate(groups))
    starts = np.cumsum([0, *map(len, groups[:-1])])
    return _Batches(durations_s, num_tokens, starts, audio_tokens(durations_s))


def _most(plan: EpochPlan, batches: _Batches, sizes: np.ndarray, logits: np.ndarray) -> tuple[int, int, int]:
    """The largest of each, by the worst that augmentation and contexts may add."""
    tokens = plan.margin.tokens(batches.num_tokens, batches.durations_s)
    heard = audio_tokens(plan.margin.seconds(batches.durations_s))
    return (
        int((sizes * np.maximum.reduceat(tokens, batches.starts)).max()),
        int(np.add.reduceat(heard, batches.starts).max()),
        int(np.add.reduceat(logits, batches.starts).max()),
    )


def _frames(durations_s: np.ndarray) -> np.ndarray:
    samples = np.rint(durations_s * SAMPLE_RATE).astype(np.int64)
    frames: np.ndarray = np.maximum(samples, MIN_SAMPLES) // HOP
    return frames
