"""The training loop that Ray Train runs in every worker."""

import contextlib
import logging
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import ray.train
import ray.train.torch
import torch
import torch.distributed as dist

from caspi import evaluation
from caspi.corpus import Corpus
from caspi.inference.transcriber import Transcriber
from caspi.model import Batch, Loaded, load
from caspi.recipe import Recipe
from caspi.text import language_name
from caspi.training import checkpoint
from caspi.training.checkpoint import Cursor
from caspi.training.feed import BatchMaker, ShardReader, ahead
from caspi.training.plan import EpochPlan, plan_epoch
from caspi.training.progress import Progress
from caspi.training.step import StepResult, build_optimizer, learning_rate, train_step

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Job:
    """What the driver tells every worker. Paths are absolute and on storage that all machines see."""

    recipe: Recipe
    corpus: Path
    start: str  # where weights come from: a folder or a Hub id
    output: Path
    tracking_uri: str
    run_id: str


def train_loop(job: Job) -> None:
    """Fine-tune on this worker's share of each step."""
    training = job.recipe.training
    rank, world_size = ray.train.get_context().get_world_rank(), ray.train.get_context().get_world_size()
    device = ray.train.torch.get_device()
    if device.type == "cpu":
        # Each worker computes on the cores that Ray gave it; more threads than cores only get in each other's way.
        torch.set_num_threads(max(1, int(training.workers.cpus_per_worker)))

    corpus = Corpus.open(job.corpus)
    loaded = load(job.start, device=device)
    if training.gradient_checkpointing:
        loaded.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    optimizer = build_optimizer(loaded.model, training.optimizer)
    cursor = _restore(loaded, optimizer)
    plans = _plans(corpus, job.recipe)
    num_steps = sum(len(plan.steps) for plan in plans)
    examiner = Examiner(job, corpus, loaded, rank, world_size)
    maker = BatchMaker(
        reader=ShardReader(corpus, "train"),
        prompter=loaded.prompter,
        language=language_name(job.recipe.data.language),
        augmentation=training.augmentation,
        seed=training.seed,
    )

    # The plan gives every rank the same steps: a reduction that one worker never joins hangs the rest.
    with Progress.open(job, rank=rank, cursor=cursor, num_steps=num_steps) as progress, contextlib.ExitStack() as feed:
        prepared = ahead(lambda: _prepare(plans, maker, job.recipe, cursor, rank, world_size))
        feed.callback(prepared.close)
        waited = time.perf_counter()
        for step, batches in prepared:
            wait_s = time.perf_counter() - waited
            rate = learning_rate(training.optimizer, step=step.step, num_steps=num_steps)
            for group in optimizer.param_groups:
                group["lr"] = rate
            loaded.model.train()
            result = train_step(
                loaded.model,
                optimizer,
                batches,
                device=device,
                autocast=_autocast(training.precision, device),
                max_grad_norm=training.optimizer.max_grad_norm,
                alignment_weight=training.alignment_weight,
            )
            cursor = _advance(step, plans)
            progress.step(cursor, result, learning_rate=rate, wait_s=wait_s)
            cursor = _milestones(job, cursor, plans, num_steps, loaded, optimizer, examiner, progress, result)
            waited = time.perf_counter()


def _milestones(
    job: Job,
    cursor: Cursor,
    plans: list[EpochPlan],
    num_steps: int,
    loaded: Loaded,
    optimizer: torch.optim.Optimizer,
    examiner: "Examiner",
    progress: Progress,
    result: StepResult,
) -> Cursor:
    """After a step: validate and write a checkpoint where the recipe says so."""
    training = job.recipe.training
    is_last = cursor.step == num_steps
    validate_every = training.validation.every_steps or -(-num_steps // len(plans))
    is_validation = is_last or cursor.step % validate_every == 0
    is_checkpoint = is_last or cursor.step % (training.checkpoints.every_steps or validate_every) == 0
    if is_validation:
        cursor = examiner.examine(cursor, progress)
    if is_checkpoint:
        _report(loaded, optimizer, cursor, result)
        progress.checkpoint(cursor)
    return cursor


@dataclass
class Examiner:
    """Judges the model by WER on the validation split, and keeps the best one as `RUN/model`."""

    job: Job
    corpus: Corpus
    loaded: Loaded
    rank: int
    world_size: int

    def examine(self, cursor: Cursor, progress: Progress) -> Cursor:
        """Transcribe the validation subset, shared by all ranks; rank 0 saves the model when it is the best so far."""
        started = time.perf_counter()
        positions = self._positions()
        wer = None
        if len(positions):
            references, hypotheses = self._transcribe(positions)
            score = evaluation.score(references, hypotheses, language=self.job.recipe.data.language)
            wer = score.wer
            progress.validation(cursor, wer=wer, cer=score.cer, seconds=time.perf_counter() - started)
        # Without a validation split the newest model is the best there is.
        if wer is None or cursor.best_wer is None or wer < cursor.best_wer:
            cursor = replace(cursor, best_wer=wer)
            if self.rank == 0:
                keep(self.loaded, self.job.output / "model")
        return cursor

    def _positions(self) -> np.ndarray:
        """The first utterances of the validation split; shards are shuffled, so the first are a fair sample."""
        size = pc.sum(pc.equal(self.corpus.utterances["split"], "validation")).as_py() or 0
        return np.arange(min(size, self.job.recipe.training.validation.max_utterances))

    def _transcribe(self, positions: np.ndarray) -> tuple[list[str], list[str]]:
        from caspi import audio

        reader = ShardReader(self.corpus, "validation")
        mine = [reader.read(int(position)) for position in positions[self.rank :: self.world_size]]
        self.loaded.model.eval()
        transcriber = Transcriber(self.loaded, limits=self.job.recipe.inference)
        clips = [audio.decode(utterance.encoded, source=utterance.utterance_id).samples for utterance in mine]
        answers = transcriber.transcribe_batch(clips, languages=[self.job.recipe.data.language] * len(clips))
        pairs = [(utterance.text, answer.text) for utterance, answer in zip(mine, answers, strict=True)]
        gathered: list[list[tuple[str, str]]] = [pairs] * self.world_size
        if self.world_size > 1:
            dist.all_gather_object(gathered, pairs)
        joined = [pair for part in gathered for pair in part]
        return [reference for reference, _ in joined], [hypothesis for _, hypothesis in joined]


def keep(loaded: Loaded, folder: Path) -> None:
    """Replace `folder` by the present model; whoever looks sees the old or the new one, whole."""
    fresh, old = folder.with_name(f".{folder.name}.new"), folder.with_name(f".{folder.name}.old")
    for leftover in (fresh, old):
        shutil.rmtree(leftover, ignore_errors=True)
    loaded.save(fresh)
    if folder.exists():
        folder.rename(old)
    fresh.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def _prepare(
    plans: list[EpochPlan], maker: BatchMaker, recipe: Recipe, cursor: Cursor, rank: int, world_size: int
) -> Iterator[tuple[Cursor, list[Batch]]]:
    """From the cursor to the end of the run: the cursor of each step and this rank's micro-batches."""
    bound = recipe.training.batches.max_micro_batch_s
    while cursor.epoch < len(plans):
        plan = plans[cursor.epoch]
        while cursor.step_in_epoch < len(plan.steps):
            groups = plan.micro_batches(cursor.step_in_epoch, rank=rank, world_size=world_size, max_micro_batch_s=bound)
            yield cursor, [maker.make(positions, epoch=cursor.epoch) for positions in groups]
            cursor = cursor.after_step()
        cursor = cursor.next_epoch()


def _advance(done: Cursor, plans: list[EpochPlan]) -> Cursor:
    """The cursor after a step was done."""
    cursor = done.after_step()
    return cursor.next_epoch() if cursor.step_in_epoch == len(plans[cursor.epoch].steps) else cursor


def _plans(corpus: Corpus, recipe: Recipe) -> list[EpochPlan]:
    index = corpus.index("train")
    shards = pc.dictionary_encode(index["shard"]).combine_chunks().indices.to_numpy()
    return [
        plan_epoch(
            index["duration_s"].to_numpy(),
            shards,
            step_audio_s=recipe.training.batches.step_audio_s,
            seed=recipe.training.seed,
            epoch=epoch,
        )
        for epoch in range(recipe.training.epochs)
    ]


def _restore(loaded: Loaded, optimizer: torch.optim.Optimizer) -> Cursor:
    """The newest checkpoint that Ray knows of this run, or a fresh start."""
    found = ray.train.get_checkpoint()
    if found is None:
        return Cursor()
    with found.as_directory() as folder:
        return checkpoint.restore(Path(folder), loaded, optimizer)


def _report(loaded: Loaded, optimizer: torch.optim.Optimizer, cursor: Cursor, result: StepResult) -> None:
    """Every worker reports, though only rank 0 has files to attach: report() is a barrier."""
    metrics = {"step": cursor.step, "train/loss": result.loss, "eval/wer": cursor.best_wer}
    if ray.train.get_context().get_world_rank() != 0:
        ray.train.report(metrics)
        return
    with tempfile.TemporaryDirectory(prefix="caspi-checkpoint-") as folder:
        checkpoint.save(Path(folder), loaded, optimizer, cursor)
        ray.train.report(
            metrics,
            checkpoint=ray.train.Checkpoint.from_directory(folder),
            checkpoint_dir_name=f"checkpoint-{cursor.step:06d}",
        )


def _autocast(precision: str, device: torch.device) -> torch.dtype | None:
    """bf16 where asked for, or where `auto` finds a GPU that has it. Never fp16: its range needs loss scaling."""
    if precision == "auto":
        return torch.bfloat16 if device.type == "cuda" and torch.cuda.is_bf16_supported() else None
    return torch.bfloat16 if precision == "bf16" else None
