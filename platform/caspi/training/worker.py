"""One rank of a run: the model, its optimizer, its share of the plan, and how far it has come."""

import contextlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import ray.train
import ray.train.torch
import torch
import torch.distributed as dist

from caspi.allocation import keep_freed_memory_of_any_size
from caspi.model import Batch, Loaded, load
from caspi.model.flops import trained_shares, training_flops
from caspi.training import checkpoint, collating, device_memory, devices, parameters
from caspi.training.bounds import Bounds
from caspi.training.calibration import Calibration, Calibrator, Memory
from caspi.training.checkpoint import Snapshot, State
from caspi.training.compiling import compile_layers, eagerly
from caspi.training.context import ContextMaker
from caspi.training.ema import Ema, kept
from caspi.training.feed import BatchMaker, Planned, Share
from caspi.training.fetching import ShardFetcher
from caspi.training.footprint import Load
from caspi.training.job import Job
from caspi.training.keeping import is_judged
from caspi.training.lengths import LengthIndex
from caspi.training.plan import EpochPlan, plan_run
from caspi.training.progress import Local, Ranks
from caspi.training.reading import ShardReader
from caspi.training.resuming import check_start
from caspi.training.sample import RESERVES, Sample
from caspi.training.sensors import Sensors
from caspi.training.sharding import gathered, shard
from caspi.training.step import (
    Objective,
    StepResult,
    Stop,
    autocast_type,
    build_optimizer,
    halves,
    learning_rate,
    train_step,
    try_batch,
)
from caspi.training.survey import Surveyor
from caspi.training.validation import Examiner, Judgement

_MAX_DECODERS = 4


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
    bounds: Bounds | None  # of micro-batches; None: not calibrated yet
    not_compiled: str | None  # why, where the recipe asks for it

    @classmethod
    def start(cls, job: Job, restored: Path | None) -> "Worker":
        """Load the model and go to where the checkpoint `restored` stands, or to the start."""
        recipe, context = job.recipe, ray.train.get_context()
        rank, world_size, device = context.get_world_rank(), context.get_world_size(), ray.train.torch.get_device()
        if device.type == "cpu":
            # Each worker computes on the cores that Ray gave it; more threads than cores only get in each other's way.
            torch.set_num_threads(max(1, int(recipe.training.workers.cpus_per_worker)))
            keep_freed_memory_of_any_size()
        corpus, loaded = job.corpus.reopen(), load(job.start, device=device)
        check_start(job.start, job.start_digest)
        parameters.prepare(loaded.model, recipe.training)
        not_compiled = compile_layers(loaded.model, device) if recipe.training.compile else None
        if recipe.training.sharding == "full" and world_size > 1:
            shard(loaded.model, device)
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
            collation=collating.agreed(gather(collating.fitting(recipe.training, device), world_size)),
        )
        return cls(
            job=job,
            rank=rank,
            world_size=world_size,
            device=device,
            loaded=loaded,
            optimizer=optimizer,
            ema=ema,
            state=state,
            plans=plans,
            maker=maker,
            examiner=Examiner(recipe, corpus, loaded, rank, world_size),
            bounds=Bounds.fixed(recipe.training.batches),
            not_compiled=not_compiled,
        )

    @property
    def num_steps(self) -> int:
        return sum(plan.num_steps for plan in self.plans)

    @property
    def is_done(self) -> bool:
        return self.state.step == self.num_steps

    @property
    def is_sharded(self) -> bool:
        """Whether ranks must run as many forward and backward passes as the others."""
        return self.job.recipe.training.sharding == "full" and self.world_size > 1

    @property
    def autocast(self) -> torch.dtype | None:
        return autocast_type(self.job.recipe.training.precision, self.device)

    def calibrate(self) -> Calibration | None:
        """Find the bounds of micro-batches, with the other ranks, where the recipe leaves them to the device.

        Raises:
            DoesNotFit: on every rank: some utterance alone needs more memory than there is.
        """
        if self.bounds is not None:
            return None
        training, config = self.job.recipe.training, self.loaded.model.config
        surveyor = Surveyor(
            self.plans, training, self.world_size, len(self.loaded.prompter.prompt(0)), self.maker.collation
        )
        # While a checkpoint is written, its copy of the model is in the memory of the first rank's host.
        copy = self.snapshot() if self.device.type == "cpu" else None
        self._try(np.zeros(1, np.int64))  # what is allocated once would be taken for a part of the first batch
        limits = gather(device_memory.limit_bytes(self.device, training.workers.memory_gib), self.world_size)
        names = gather(device_memory.name(self.device), self.world_size)
        memory = Memory.of(self.job.output / "memory", names, min(limits), config, training)
        known = from_rank_0(memory.read(), self.world_size)
        reserve = RESERVES[self.device.type]
        found = Calibrator(Sample(surveyor), self._try, min(limits), reserve).run(known)
        del copy
        if known is None:
            if self.rank == 0:
                memory.write(found.model)
            # What ran out before did so on another device, or was tried by these batches.
            self.state = replace(self.state, max_micro_batch_s=None)
        self.bounds = found.bounds.within(training.batches)
        return found

    def remaining_shares(self) -> Iterator[Share]:
        """This rank's share of each step, from where the run stands to its end. They are made ahead of it, in threads.

        Decoding is hundreds of times faster than training: a few threads are enough, whatever CPUs there are.
        """
        num_threads = min(_MAX_DECODERS, max(1, int(self.job.recipe.training.workers.cpus_per_worker)))
        return self.maker.shares(self._remaining(), num_threads=num_threads, is_pinned=self.device.type == "cuda")

    def _remaining(self) -> Iterator[Planned]:
        first = self.state
        with ShardFetcher(self.job.corpus) as fetcher:
            for epoch in range(first.epoch, len(self.plans)):
                plan = self.plans[epoch]
                for step in range(first.step_in_epoch if epoch == first.epoch else 0, plan.num_steps):
                    fetcher.follow(self.plans, epoch, step)
                    groups = self._groups(plan, step, self.rank)
                    audio_s = sum(float(plan.lengths(group)[0].sum()) for group in groups)
                    yield Planned(epoch, groups, audio_s, self._idle(plan, step, len(groups)))

    def _groups(self, plan: EpochPlan, step: int, rank: int) -> tuple[np.ndarray, ...]:
        assert self.bounds is not None, "calibrate comes first"
        return plan.micro_batches(
            step, rank=rank, world_size=self.world_size, collation=self.maker.collation, **asdict(self.bounds)
        )

    def _idle(self, plan: EpochPlan, step: int, num_batches: int) -> list[np.ndarray]:
        """What this rank computes to no effect, as small as can be, so that it runs as often as any other."""
        if not self.is_sharded:
            return []
        most = max(len(self._groups(plan, step, rank)) for rank in range(self.world_size))
        if most == num_batches:
            return []
        items = plan.utterances(step)
        durations_s, _ = plan.lengths(items)
        return [items[[durations_s.argmin()]]] * (most - num_batches)

    def step(self, share: Share, *, stop: Stop) -> tuple[float, StepResult]:
        """Do one update; returns its learning rate and what it did."""
        settings, state = self.job.recipe.training, self.state
        rate = learning_rate(settings.optimizer, step=state.step, num_steps=self.num_steps)
        parameters.set_rate(self.optimizer, rate)
        # The released models have no dropout. One that has draws the same numbers after a restart.
        torch.manual_seed(hash((settings.seed, state.step, self.rank)))
        result = train_step(
            self.loaded.model,
            self.optimizer,
            self._fitting(share.batches),
            self._objective(),
            idle=share.idle,
            stop=stop,
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
            judgement = self.examine()
        if judgement is not None:
            self.state = self.state.graded(judgement.grade)
        return judgement

    def examine(self) -> Judgement | None:
        """Transcribe together with the other ranks, with the weights as they are."""
        with gathered(self.loaded.model), eagerly(is_compiled=self.job.recipe.training.compile):
            return self.examiner.judge(self.state.step, autocast=self.autocast)

    def snapshot(self) -> Snapshot | None:
        """A copy of everything, on rank 0. Of a sharded model the others must help with it."""
        if self.rank != 0 and not self.is_sharded:
            return None
        snapshot = Snapshot.take(self.loaded, self.optimizer, self.state, self.ema, is_kept=self.rank == 0)
        return snapshot if self.rank == 0 else None

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
            return Local(seconds, device_memory.peak_bytes(self.device), peak_flops, sensors.latest if sensors else {})

        return Ranks(
            measure,
            gather=lambda local: gather(local, self.world_size),
            flops=lambda work: training_flops(config, work, trained=trained),
        )

    def _try(self, items: np.ndarray) -> tuple[Load, float]:
        """What some items are as a micro-batch, and the most bytes that any rank uses for it; infinite: too many."""
        training = self.job.recipe.training
        batch = self.maker.make(items, epoch=0)
        load = Load.of_batch(self.loaded.model.config, batch, with_alignment=training.alignment_weight > 0)
        device_memory.restart_peak(self.device)
        is_enough = try_batch(self.loaded.model, batch, self._objective())
        used = device_memory.peak_bytes(self.device) if is_enough else float("inf")
        return load, max(gather(used, self.world_size))

    def _fitting(self, batches: Sequence[Batch]) -> Sequence[Batch]:
        """The batches of the plan, cut to what memory has been found to hold."""
        bound_s = self.state.max_micro_batch_s
        if bound_s is None or self.is_sharded:
            return batches
        if all(batch.padded_s <= bound_s or batch.num_utterances == 1 for batch in batches):
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
            is_sharded=self.is_sharded,
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
