"""One way of training through the corpus once, in this process, measured. Asked by train.py.

python -m tests.benchmarks.training_ways FOLDER WAY

WAY is a Way as JSON, the last line printed a Measured as JSON.
"""

import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import Trainer, TrainerCallback, TrainingArguments

from caspi.allocation import keep_freed_memory_of_any_size
from caspi.corpus import Corpus
from caspi.model import Batch, Loaded, load, loss_sums
from caspi.model.audio_tokens import HOP
from caspi.model.batch import IGNORED
from caspi.model.features import Sound
from caspi.model.flops import Parts, Workload, trained_shares, training_flops
from caspi.recipe.sections import Training
from caspi.training import collating, devices, parameters
from caspi.training.context import ContextMaker
from caspi.training.ema import Ema
from caspi.training.feed import BatchMaker, ahead
from caspi.training.lengths import LengthIndex
from caspi.training.plan import EpochPlan, plan_run
from caspi.training.profiling import waiting
from caspi.training.reading import ShardReader
from caspi.training.step import Objective, autocast_type, build_optimizer, train_step
from tests.benchmarks.training_material import MEAN_S, SEED
from tests.benchmarks.training_measures import STEP_UTTERANCES, Clock, Measured, Memory, Way, answer

_NUM_JUDGED = 32

_SETTINGS: dict[str, Any] = {
    "epochs": 1,
    "seed": SEED,
    "batches": {"step_audio_s": STEP_UTTERANCES * MEAN_S},
    "optimizer": {"learning_rate": 2e-4, "schedule": "constant", "warmup_share": 0},
}


def _settings(way: Way) -> Training:
    """All that a recipe says of training, by default and by the way."""
    merged: dict[str, Any] = _SETTINGS | {"precision": way.precision}
    for name, value in way.training.items():
        merged[name] = merged[name] | value if name in merged else value
    return Training.model_validate(merged)


@dataclass
class Run:
    """What all ways share: weights, utterances, labels, what an update is."""

    way: Way
    settings: Training
    device: torch.device
    loaded: Loaded
    index: LengthIndex
    maker: BatchMaker
    measured: Measured = field(default_factory=Measured)

    @classmethod
    def open(cls, folder: Path, way: Way) -> "Run":
        torch.set_num_threads(way.num_threads)
        settings, device = _settings(way), torch.device(way.device)
        if way.kind == "caspi" and way.device == "cpu":
            keep_freed_memory_of_any_size()  # as its workers do
        corpus, loaded = Corpus.open(folder / "corpus"), load(folder / "model", device=device)
        loaded.model.train()
        index = LengthIndex.open(folder / "lengths", corpus, loaded.prompter)
        maker = BatchMaker(
            reader=ShardReader.of_index(corpus, index, max_open_shards=len(index.shards)),
            prompter=loaded.prompter,
            augmentation=settings.augmentation,
            context=ContextMaker(settings.context, loaded.prompter),
            seed=settings.seed,
            collation=collating.fitting(settings, device) if way.kind == "caspi" else "bucketed",
        )
        return cls(way, settings, device, loaded, index, maker)

    def batch(self, positions: Sequence[int] | np.ndarray) -> Batch:
        return self.maker.make(np.asarray(positions, np.int64), epoch=0)

    def count(self, batch: Batch) -> None:
        """Add a batch on the CPU to what is measured."""
        config = self.loaded.model.config
        work = Workload.of_batch(config, batch, with_alignment=False)
        self.measured.count(batch, training_flops(config, work, trained=self.trained))

    @cached_property
    def trained(self) -> Parts:
        return trained_shares(self.loaded.model)

    @property
    def objective(self) -> Objective:
        return Objective(
            self.device,
            autocast=autocast_type(self.settings.precision, self.device),
            max_grad_norm=self.settings.optimizer.max_grad_norm,
        )

    def measure(self, folder: Path) -> Measured:
        memory, measured = Memory(self.device), self.measured
        if self.way.kind == "caspi":
            caspi(self, memory)
        else:
            trainer(self, memory, folder)
        measured.peak_bytes = memory.peak_bytes()
        measured.peak_flops = devices.peak_flops(self.device) or 0.0
        if self.device.type == "cuda":
            measured.device_bytes = torch.cuda.get_device_properties(self.device).total_memory
        measured.loss = self._judge()
        return measured

    @torch.no_grad()
    def _judge(self) -> float:
        """The loss of the model as it is now."""
        batches = [self.batch(range(start, start + 4)) for start in range(0, min(_NUM_JUDGED, len(self.index)), 4)]
        total = sum(loss_sums(self.loaded.model, batch.to(self.device)).cross_entropy.item() for batch in batches)
        return total / sum(batch.num_supervised for batch in batches)


def caspi(run: Run, memory: Memory) -> None:
    """What a worker of `caspi train` does between two checkpoints."""
    model, settings, measured, (plan,) = run.loaded.model, run.settings, run.measured, plan_run(run.index, run.settings)
    parameters.prepare(model, settings)
    optimizer = build_optimizer(model, settings.optimizer)
    ema = Ema(model, settings.ema) if settings.ema else None
    num_steps = min(plan.num_steps, run.way.num_steps or plan.num_steps)
    loss_sums(model, run.batch([0, 1]).to(run.device)).objective.backward()  # what the first pass makes stays
    memory.restart()
    clock = Clock()
    for step, (batches, wait_s) in enumerate(waiting(ahead(lambda: _shares(run, plan, num_steps)))):
        result = train_step(model, optimizer, batches, run.objective)
        if ema:
            ema.update(step + 1)
        measured.wait_s += wait_s
        measured.num_steps += 1
        measured.num_halvings += result.num_halvings
        for batch in batches:
            run.count(batch)
    clock.stop(measured)


def _shares(run: Run, plan: EpochPlan, num_steps: int) -> Iterator[list[Batch]]:
    bounds = run.settings.batches
    for step in range(num_steps):
        groups = plan.micro_batches(
            step,
            rank=0,
            world_size=1,
            max_micro_batch_s=bounds.max_micro_batch_s,
            max_micro_batch_tokens=bounds.max_micro_batch_tokens,
            collation=run.maker.collation,
        )
        yield [run.batch(group) for group in groups]


def trainer(run: Run, memory: Memory, folder: Path) -> None:
    """What somebody gets who gives the native model and correct labels to transformers' Trainer."""
    way, optimizer, pad_id = run.way, run.settings.optimizer, run.loaded.prompter.pad_id
    arguments = TrainingArguments(
        output_dir=str(folder / "trainer"),
        use_cpu=run.device.type == "cpu",
        bf16=run.objective.autocast is torch.bfloat16,
        num_train_epochs=1,
        per_device_train_batch_size=way.batch_size,
        gradient_accumulation_steps=STEP_UTTERANCES // way.batch_size,
        train_sampling_strategy=way.sampling,
        dataloader_num_workers=way.num_readers,
        learning_rate=optimizer.learning_rate,
        lr_scheduler_type=optimizer.schedule,
        weight_decay=optimizer.weight_decay,
        adam_beta1=optimizer.betas[0],
        adam_beta2=optimizer.betas[1],
        max_grad_norm=optimizer.max_grad_norm,
        seed=SEED,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
    )
    model, lengths = run.loaded.model, run.index.num_tokens[: way.num_utterances].tolist()
    # The samplers read lengths off `input_ids`; the collator makes the real ones, as ours are made.
    items = [{"position": place, "input_ids": range(length)} for place, length in enumerate(lengths)]
    model(**native_inputs(run.batch([0, 1]).to(run.device), pad_id)).loss.backward()
    model.zero_grad()
    training = _CountingTrainer(
        model,
        arguments,
        data_collator=lambda chosen: native_inputs(run.batch([item["position"] for item in chosen]), pad_id),
        train_dataset=items,
        callbacks=[_Timer(run.measured, memory)],
    )
    training.count = run.count
    training.measured = run.measured
    training.train()


class _CountingTrainer(Trainer):
    """Counts what a step is made of, and how long it was waited for."""

    measured: Measured
    count: Callable[[Batch], None]

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> Any:
        started = time.perf_counter()
        batches, num_tokens = super().get_batch_samples(*args, **kwargs)
        self.measured.wait_s += time.perf_counter() - started
        for batch in batches:
            self.count(_counted(batch))
        return batches, num_tokens


class _Timer(TrainerCallback):
    """Times the epoch without what Trainer does before and after it."""

    def __init__(self, measured: Measured, memory: Memory) -> None:
        self._measured, self._memory = measured, memory

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        self._memory.restart()
        self._clock = Clock()

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._clock.stop(self._measured)
        self._measured.num_steps = state.global_step


def native_inputs(batch: Batch, pad_id: int) -> dict[str, torch.Tensor]:
    """A batch as the native forward pass takes it."""
    return {
        "input_ids": batch.input_ids,
        "attention_mask": (batch.input_ids != pad_id).long(),
        "labels": batch.labels,
        "input_features": batch.features.values,
        "input_features_mask": batch.features.mask,
    }


def _counted(inputs: Mapping[str, torch.Tensor]) -> Batch:
    """The way back, for what is counted; without the sound itself."""
    labels, frames = inputs["labels"].cpu(), inputs["input_features_mask"].cpu().sum(-1)
    places = torch.arange(1, labels.shape[1] + 1)
    lengths = (places * (labels != IGNORED)).amax(-1)  # each utterance ends with its last supervised token
    silence = [np.zeros(num_frames * HOP, np.float32) for num_frames in frames.tolist()]
    return Batch(inputs["input_ids"].cpu(), labels, (), Sound.of(silence), tuple(lengths.tolist()))


def main(folder: str, way: str) -> None:
    answer(Run.open(Path(folder), Way.parse(way)).measure(Path(folder)))


if __name__ == "__main__":
    main(*sys.argv[1:])
