"""The training loop that Ray Train runs in every worker."""

import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ray.train
import ray.train.torch
import torch

from caspi.corpus import Corpus
from caspi.model import Batch, Loaded, load
from caspi.recipe import Recipe
from caspi.training import checkpoint
from caspi.training.checkpoint import Cursor
from caspi.training.context import ContextMaker
from caspi.training.feed import BatchMaker, ahead
from caspi.training.lengths import LengthIndex
from caspi.training.plan import EpochPlan, plan_run
from caspi.training.progress import Progress
from caspi.training.reading import ShardReader
from caspi.training.step import StepResult, build_optimizer, learning_rate, train_step
from caspi.training.validation import Examiner, keep


@dataclass(frozen=True)
class Job:
    """What the driver tells every worker. Paths are absolute and on storage that all machines see."""

    recipe: Recipe
    corpus: Path
    start: str  # where weights come from: a folder or a Hub id
    lengths: Path
    output: Path
    tracking_uri: str
    run_id: str


def train_loop(job: Job) -> None:
    """Fine-tune on this worker's share of each step."""
    worker = Worker.start(job)
    with Progress.open(job, rank=worker.rank, cursor=worker.cursor, num_steps=worker.num_steps) as progress:
        feed = ahead(worker.remaining_steps)
        try:
            waited = time.perf_counter()
            # The plan gives every rank the same steps: a reduction that one worker never joins hangs the rest.
            for batches in feed:
                wait_s = time.perf_counter() - waited
                rate, result = worker.step(batches)
                progress.step(worker.cursor, result, learning_rate=rate, wait_s=wait_s)
                if worker.is_due(job.recipe.training.validation.every_steps):
                    worker.validate(progress)
                if worker.is_due(job.recipe.training.checkpoints.every_steps):
                    worker.save(result)
                    progress.checkpoint(worker.cursor)
                waited = time.perf_counter()
        finally:
            feed.close()


@dataclass
class Worker:
    """One rank of a run: the model, its optimizer, and how far it has come."""

    job: Job
    rank: int
    world_size: int
    device: torch.device
    loaded: Loaded
    optimizer: torch.optim.Optimizer
    cursor: Cursor
    plans: list[EpochPlan]
    maker: BatchMaker
    examiner: Examiner

    @classmethod
    def start(cls, job: Job) -> "Worker":
        """Load the model and go to where the newest checkpoint that Ray knows of this run stands."""
        recipe, context = job.recipe, ray.train.get_context()
        rank, world_size, device = context.get_world_rank(), context.get_world_size(), ray.train.torch.get_device()
        if device.type == "cpu":
            # Each worker computes on the cores that Ray gave it; more threads than cores only get in each other's way.
            torch.set_num_threads(max(1, int(recipe.training.workers.cpus_per_worker)))
        corpus, loaded = Corpus.open(job.corpus), load(job.start, device=device)
        if recipe.training.gradient_checkpointing:
            loaded.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        loaded.model.train()
        optimizer = build_optimizer(loaded.model, recipe.training.optimizer)
        cursor = Cursor()
        if found := ray.train.get_checkpoint():
            with found.as_directory() as folder:
                cursor = checkpoint.restore(Path(folder), loaded, optimizer)
        index = LengthIndex.open(job.lengths, corpus, loaded.prompter)
        plans = plan_run(index, recipe.training)
        maker = BatchMaker(
            reader=ShardReader.of_index(corpus, index, max_open_shards=max(plan.max_open_shards for plan in plans)),
            prompter=loaded.prompter,
            augmentation=recipe.training.augmentation,
            context=ContextMaker(recipe.training.context, loaded.prompter),
            seed=recipe.training.seed,
        )
        examiner = Examiner(recipe, corpus, loaded, rank, world_size)
        return cls(job, rank, world_size, device, loaded, optimizer, cursor, plans, maker, examiner)

    @property
    def num_steps(self) -> int:
        return sum(plan.num_steps for plan in self.plans)

    def remaining_steps(self) -> Iterator[list[Batch]]:
        """This rank's micro-batches of each step, from the cursor to the end of the run."""
        bounds = self.job.recipe.training.batches
        first = self.cursor
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
                yield [self.maker.make(items, epoch=epoch) for items in groups]

    def step(self, batches: list[Batch]) -> tuple[float, StepResult]:
        """Do one update; returns its learning rate and what it did."""
        settings = self.job.recipe.training
        rate = learning_rate(settings.optimizer, step=self.cursor.step, num_steps=self.num_steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        result = train_step(
            self.loaded.model,
            self.optimizer,
            batches,
            device=self.device,
            autocast=self._autocast,
            max_grad_norm=settings.optimizer.max_grad_norm,
            alignment_weight=settings.alignment_weight,
        )
        self.cursor = self.cursor.after_step(steps_in_epoch=self.plans[self.cursor.epoch].num_steps)
        return rate, result

    def is_due(self, every_steps: int | None) -> bool:
        """Whether something that happens every so many steps, by default once an epoch, happens now. The end counts."""
        every_steps = every_steps or -(-self.num_steps // len(self.plans))
        return self.cursor.step % every_steps == 0 or self.cursor.step == self.num_steps

    def validate(self, progress: Progress) -> None:
        """Transcribe, and keep the model if it is the best so far. Without a validation split, each is."""
        started = time.perf_counter()
        score = self.examiner.score(autocast=self._autocast)
        if score is not None:
            progress.validation(self.cursor, wer=score.wer, cer=score.cer, seconds=time.perf_counter() - started)
        if score is not None and not self.cursor.is_best(score.wer, score.cer):
            return
        if score is not None:
            self.cursor = replace(self.cursor, best_wer=score.wer, best_cer=score.cer)
        if self.rank == 0:
            keep(self.loaded, self.job.output / "model")

    def save(self, result: StepResult) -> None:
        """Write a checkpoint. Every worker reports, though only rank 0 has files to attach: report() is a barrier."""
        metrics: dict[str, Any] = {
            "step": self.cursor.step,
            "train/loss": result.loss,
            "eval/wer": self.cursor.best_wer,
        }
        if self.rank != 0:
            ray.train.report(metrics)
            return
        with tempfile.TemporaryDirectory(prefix="caspi-checkpoint-") as folder:
            checkpoint.save(Path(folder), self.loaded, self.optimizer, self.cursor)
            ray.train.report(
                metrics,
                checkpoint=ray.train.Checkpoint.from_directory(folder),
                checkpoint_dir_name=checkpoint.name(self.cursor),
            )

    @property
    def _autocast(self) -> torch.dtype | None:
        """bf16 where asked for, or where `auto` finds a GPU that has it. Never fp16: its range needs loss scaling."""
        precision = self.job.recipe.training.precision
        if precision == "auto":
            return torch.bfloat16 if self.device.type == "cuda" and torch.cuda.is_bf16_supported() else None
        return torch.bfloat16 if precision == "bf16" else None
