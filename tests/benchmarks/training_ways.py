"""One way of training through the corpus once, in this process, measured. Called by train.py.

python -m tests.benchmarks.training_ways FOLDER WAY

WAY is JSON: {"kind": "caspi"} or {"kind": "trainer", "sampling": "random", "batch_size": 2}; with `"num_utterances"` a
part of the corpus is enough. The last line printed is a Measured as JSON.
"""

import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import Trainer, TrainerCallback, TrainingArguments

from caspi.corpus import Corpus
from caspi.model import Batch, Loaded, load, loss_sums
from caspi.recipe.sections import Training
from caspi.training.context import ContextMaker
from caspi.training.feed import BatchMaker, ahead
from caspi.training.lengths import LengthIndex
from caspi.training.plan import plan_run
from caspi.training.reading import ShardReader
from caspi.training.step import Objective, build_optimizer, train_step
from tests.benchmarks.training_material import MEAN_S, SEED

STEP_UTTERANCES = 32  # 2 x 16 accumulated, as in the run that is known best by its log
NUM_THREADS = 2
_NUM_JUDGED = 32

SETTINGS = Training.model_validate(
    {
        "epochs": 1,
        "seed": SEED,
        "batches": {"step_audio_s": STEP_UTTERANCES * MEAN_S},
        "optimizer": {"learning_rate": 2e-4, "schedule": "constant", "warmup_share": 0},
    }
)


@dataclass
class Measured:
    """What an epoch took."""

    seconds: float = 0.0
    num_utterances: int = 0
    num_steps: int = 0
    num_batches: int = 0
    audio_s: float = 0.0
    padded_s: float = 0.0
    num_tokens: int = 0  # of the decoder, padding included
    num_real_tokens: int = 0
    peak_bytes: int = 0  # of the whole process
    loss: float = 0.0  # of the trained model, on the same utterances for all

    def count(self, batch: Batch) -> None:
        self.num_batches += 1
        self.num_utterances += batch.num_utterances
        self.audio_s += batch.audio_s
        self.padded_s += batch.padded_s
        self.num_tokens += batch.num_tokens
        self.num_real_tokens += batch.num_real_tokens


@dataclass
class Run:
    """What all ways share: weights, utterances, order of magnitude of a step, labels."""

    loaded: Loaded
    index: LengthIndex
    maker: BatchMaker
    measured: Measured = field(default_factory=Measured)

    @classmethod
    def open(cls, folder: Path) -> "Run":
        torch.set_num_threads(NUM_THREADS)
        corpus, loaded = Corpus.open(folder / "corpus"), load(folder / "model")
        loaded.model.train()
        index = LengthIndex.open(folder / "lengths", corpus, loaded.prompter)
        maker = BatchMaker(
            reader=ShardReader.of_index(corpus, index, max_open_shards=len(index.shards)),
            prompter=loaded.prompter,
            augmentation=SETTINGS.augmentation,
            context=ContextMaker(SETTINGS.context, loaded.prompter),
            seed=SETTINGS.seed,
        )
        return cls(loaded, index, maker)

    def batch(self, positions: Sequence[int] | np.ndarray) -> Batch:
        return self.maker.make(np.asarray(positions, np.int64), epoch=0)

    def caspi(self) -> None:
        """What a worker of `caspi train` does between two checkpoints."""
        model, (plan,) = self.loaded.model, plan_run(self.index, SETTINGS)
        optimizer = build_optimizer(model, SETTINGS.optimizer)
        objective = Objective(torch.device("cpu"), autocast=None, max_grad_norm=SETTINGS.optimizer.max_grad_norm)
        loss_sums(model, self.batch([0, 1])).objective.backward()

        def shares() -> Iterator[list[Batch]]:
            for step in range(plan.num_steps):
                groups = plan.micro_batches(
                    step, rank=0, world_size=1, max_micro_batch_s=SETTINGS.batches.max_micro_batch_s
                )
                yield [self.batch(group) for group in groups]

        started = time.perf_counter()
        for batches in ahead(shares):
            train_step(model, optimizer, batches, objective)
            self.measured.num_steps += 1
            for batch in batches:
                self.measured.count(batch)
        self.measured.seconds = time.perf_counter() - started

    def trainer(self, folder: Path, sampling: str, batch_size: int, num_utterances: int | None = None) -> None:
        """What somebody gets who gives the native model and correct labels to transformers' Trainer."""
        optimizer = SETTINGS.optimizer
        arguments = TrainingArguments(
            output_dir=str(folder / "trainer"),
            use_cpu=True,
            num_train_epochs=1,
            per_device_train_batch_size=batch_size,
            gradient_accumulation_steps=STEP_UTTERANCES // batch_size,
            train_sampling_strategy=sampling,
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
        model, pad_id = self.loaded.model, self.loaded.prompter.pad_id
        lengths = self.index.num_tokens[:num_utterances].tolist()

        def collate(items: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
            batch = self.batch([item["position"] for item in items])
            self.measured.count(batch)
            return native_inputs(batch, pad_id)

        model(**native_inputs(self.batch([0, 1]), pad_id)).loss.backward()
        model.zero_grad()
        # The samplers read lengths off `input_ids`; the collator makes the real ones, as ours are made.
        items = [{"position": place, "input_ids": range(length)} for place, length in enumerate(lengths)]
        clock = _Clock()
        Trainer(model, arguments, data_collator=collate, train_dataset=items, callbacks=[clock]).train()
        self.measured.seconds, self.measured.num_steps = clock.seconds, clock.num_steps

    @torch.no_grad()
    def judge(self) -> None:
        """The loss of the model as it is now."""
        batches = [self.batch(range(start, start + 4)) for start in range(0, min(_NUM_JUDGED, len(self.index)), 4)]
        total = sum(loss_sums(self.loaded.model, batch).cross_entropy.item() for batch in batches)
        self.measured.loss = total / sum(batch.num_supervised for batch in batches)


class _Clock(TrainerCallback):
    """Times the epoch without what Trainer does before and after it."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.started = time.perf_counter()

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.seconds, self.num_steps = time.perf_counter() - self.started, state.global_step


def native_inputs(batch: Batch, pad_id: int) -> dict[str, torch.Tensor]:
    """A batch as the native forward pass takes it."""
    return {
        "input_ids": batch.input_ids,
        "attention_mask": (batch.input_ids != pad_id).long(),
        "labels": batch.labels,
        "input_features": batch.features.values,
        "input_features_mask": batch.features.mask,
    }


def peak_bytes() -> int:
    """The most memory that this process has used at once. Not `ru_maxrss`, which begins with that of the parent."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith("VmHWM:")).split()[1])


def main(folder: str, way: str) -> None:
    run, arguments = Run.open(Path(folder)), json.loads(way)
    if arguments.pop("kind") == "caspi":
        run.caspi()
    else:
        run.trainer(Path(folder), **arguments)
    run.measured.peak_bytes = peak_bytes()
    run.judge()
    print(json.dumps(asdict(run.measured)))


if __name__ == "__main__":
    main(*sys.argv[1:])
