"""One rank of a run: the model, its optimizer, its share of the plan, and how far it has come."""

import contextlib
import resource
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import ray.train
import ray.train.torch
import torch
import torch.distributed as dist

from caspi.allocation import keep_freed_memory_of_any_size
from caspi.corpus import Corpus
from caspi.model import Batch, Loaded, load
from caspi.model.flops import trained_shares, training_flops
from caspi.training import checkpoint, devices, parameters
from caspi.training.checkpoint import Snapshot, State
from caspi.training.context import ContextMaker
from caspi.training.ema import Ema, kept
from caspi.training.feed import BatchMaker
from caspi.training.job import Job
from caspi.training.keeping import is_judged
from caspi.training.lengths import LengthIndex
from caspi.training.plan import EpochPlan, plan_run
from caspi.training.progress import Local, Ranks
from caspi.training.reading import ShardReader
from caspi.training.resuming import check_start
from caspi.training.sensors import Sensors
from caspi.training.step import (
    Objective,
    StepResult,
    Stop,
    autocast_type,
    build_optimizer,
    halves,
    learning_rate,
    train_step,
)
from caspi.training.validation import Examiner, Judgement


@dataclass(frozen=True, slots=True)
class Share:
    """What one rank computes of a step."""

    items: np.ndarray  # of the plan: utterances, their copies, silences
    batches: list[Batch]


@dataclass
class Worker:
    """One rank."""

    job: Job
    rank: int
    world_size: int
    device: torch.device
    loaded: Loaded
    optimizer: torch.optim.Optimizer
    ema: Ema | None
    state: State
    plans: list[EpochPlan]
    maker: BatchMaker
    examiner: Examiner

    @classmethod
    def start(cls, job: Job, restored: Path | None) -> "Worker":
        """Load the model and go to where the checkpoint `restored` stands, or to the start."""
        recipe, context = job.recipe, ray.train.get_context()
        rank, world_size, device = context.get_world_rank(), context.get_world_size(), ray.train.torch.get_device()
        if device.type == "cpu":
            # Each worker computes on the cores that Ray gave it; more threads than cores only get in each other's way.
            torch.set_num_threads(max(1, int(recipe.training.workers.cpus_per_worker)))
            keep_freed_memory_of_any_size()
        corpus, loaded = Corpus.open(job.corpus), load(job.start, device=device)
        check_start(job.start, job.start_digest)
        parameters.prepare(loaded.model, recipe.training)
        loaded.model.train()
        optimizer = build_optimizer(loaded.model, recipe.training.optimizer)
        ema = Ema(loaded.model, recipe.training.ema) if recipe.training.ema else None
        state = checkpoint.restore(restored, loaded, optimizer, ema) if restored else State()
        index = LengthIndex.open(job.output / "lengths", corpus, loaded.prompter)
        plans = plan_run(index, recipe.training)
        maker = BatchMaker(
            reader=ShardReader.of_index(corpus, index, max_open_shards=max(plan.max_open_shards for plan in plans)),
            prompter=loaded.prompter,
            augmentation=recipe.training.augmentation,
            context=ContextMaker(recipe.training.context, loaded.prompter),
            seed=recipe.training.seed,
        )
        examiner = Examiner(recipe, corpus, loaded, rank, world_size)
        return cls(job, rank, world_size, device, loaded, optimizer, ema, state, plans, maker, examiner)

    @property
    def num_steps(self) -> int:
        return sum(plan.num_steps for plan in self.plans)

    @property
    def is_done(self) -> bool:
        return self.state.step == self.num_steps

    @property
    def autocast(self) -> torch.dtype | None:
        return autocast_type(self.job.recipe.training.precision, self.device)

    def remaining_shares(self) -> Iterator[Share]:
        """This rank's share of each step, from where the run stands to its end. It runs ahead of them, in a thread."""
        first, bounds = self.state, self.job.recipe.training.batches
        for epoch in range(first.epoch, len(self.plans)):
            plan = self.plans[epoch]
            for step in range(first.step_in_epoch if epoch == first.epoch else 0, plan.num_steps):
                groups = plan.micro_batches(
                    step,
                    rank=self.rank,
                    world_size=self.world_size,
                    max_micro_batch_s=bounds.max_micro_batch_s,
                    max_micro_batch_tokens=bounds.max_micro_batch_tokens,
                )
                items = np.concatenate([*groups, np.zeros(0, np.int64)])
                yield Share(items, [self.maker.make(group, epoch=epoch) for group in groups])

    def step(self, share: Share, *, stop: Stop) -> tuple[float, StepResult]:
        """Do one update; returns its learning rate and what it did."""
        settings, state = self.job.recipe.training, self.state
        rate = learning_rate(settings.optimizer, step=state.step, num_steps=self.num_steps)
        parameters.set_rate(self.optimizer, rate)
        # The released models have no dropout. One that has draws the same numbers after a restart.
        torch.manual_seed(hash((settings.seed, state.step, self.rank)))
        result = train_step(
            self.loaded.model, self.optimizer, self._fitting(share.batches), self._objective(), stop=stop
        )
        if result.max_padded_s is not None:
            # For the rest of the run: what ran out once runs out again.
            state = replace(state, max_micro_batch_s=result.max_padded_s)
        self.state = state.after_step(steps_in_epoch=self.plans[state.epoch].num_steps)
        if self.ema:
            self.ema.update(self.state.step)
        return rate, result

    def is_ungraded(self) -> bool:
        """Whether the model as it stands should have a grade and has none."""
        is_graded = any(grade.step == self.state.step for grade in self.state.grades)
        return is_judged(self.job.recipe, self.state) and not is_graded

    def judge(self) -> Judgement | None:
        """Transcribe together with the other ranks, and remember the grade. None: there is no validation split."""
        with self.kept():
            judgement = self.examiner.judge(self.state.step, autocast=self.autocast)
        if judgement is not None:
            self.state = self.state.graded(judgement.grade)
        return judgement

    def snapshot(self) -> Snapshot:
        return Snapshot.take(self.loaded, self.optimizer, self.state, self.ema)

    def kept(self) -> contextlib.AbstractContextManager[None]:
        """Within the block `loaded` is the model that would be kept."""
        return kept(self.loaded.model, self.ema)

    def is_preempted(self) -> bool:
        """Whether a machine of the run is about to be taken away."""
        return ray.train.get_preemption_info() is not None

    def watch(self) -> Ranks:
        """Begin to measure this rank; one of each machine reads its sensors."""
        context = ray.train.get_context()
        sensors = Sensors(f"node_{context.get_node_rank()}") if context.get_local_rank() == 0 else None

        settings, config = self.job.recipe.training, self.loaded.model.config
        trained = trained_shares(self.loaded.model)
        peak = settings.cost.peak_tflops
        peak_flops = peak * 1e12 if peak is not None else devices.peak_flops(self.device)

        def measure(seconds: Counter[str]) -> Local:
            return Local(seconds, peak_memory(self.device), peak_flops, sensors.latest if sensors else {})

        return Ranks(
            measure,
            gather=lambda local: gather(local, self.world_size),
            flops=lambda work: training_flops(config, work, trained=trained),
        )

    def _fitting(self, batches: Sequence[Batch]) -> Sequence[Batch]:
        """The batches of the plan, cut to what memory has been found to hold."""
        bound_s = self.state.max_micro_batch_s
        if bound_s is None or all(batch.padded_s <= bound_s or batch.num_utterances == 1 for batch in batches):
            return batches
        return self._fitting([part for batch in batches for part in _cut(batch, bound_s)])

    def _objective(self) -> Objective:
        settings = self.job.recipe.training
        return Objective(
            device=self.device,
            autocast=self.autocast,
            max_grad_norm=settings.optimizer.max_grad_norm,
            alignment_weight=settings.alignment_weight,
            label_smoothing=settings.label_smoothing,
            before_forward=self._limit_memory if self.job.memory_limit else None,
        )

    def _limit_memory(self, batch: Batch) -> None:
        limit = self.job.memory_limit
        assert limit is not None
        if self.rank == limit.rank and self.state.step >= limit.step and batch.padded_s > limit.max_padded_s:
            raise torch.OutOfMemoryError(f"out of memory on purpose: {batch.padded_s:.1f} s of audio at once")


def _cut(batch: Batch, bound_s: float) -> Sequence[Batch]:
    return halves(batch) if batch.padded_s > bound_s else (batch,)


def gather(value: Any, world_size: int) -> list[Any]:
    """A small value of each rank, on every rank."""
    if world_size == 1:
        return [value]
    gathered = [None] * world_size
    dist.all_gather_object(gathered, value)
    return gathered


def from_rank_0(value: Any, world_size: int) -> Any:
    """Rank 0's value on every rank."""
    values = [value]
    if world_size > 1:
        dist.broadcast_object_list(values, src=0)
    return values[0]


def peak_memory(device: torch.device) -> int:
    """The most bytes that this rank has used so far: of the GPU, or of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
