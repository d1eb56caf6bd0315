"""Peak memory of one update from one micro-batch, in this process. Asked by train.py.

python -m tests.benchmarks.training_memory FOLDER WAY SECONDS

WAY is a Way as JSON: of Trainer, for transformers' own loss, with logits at every position; or of Caspi, for its own.
The last line printed is a Measured as JSON, whose loss is that of the micro-batch.
"""

import sys
from pathlib import Path

import numpy as np
import torch

from caspi.model import Batch
from caspi.training import parameters
from caspi.training.step import build_optimizer, train_step
from tests.benchmarks.training_measures import Memory, Way, answer
from tests.benchmarks.training_ways import Run, native_inputs


def main(folder: str, way: str, size_s: str) -> None:
    run = Run.open(Path(folder), Way.parse(way))
    parameters.prepare(run.loaded.model, run.settings)
    optimizer = build_optimizer(run.loaded.model, run.settings.optimizer)
    memory, batch = Memory(run.device), batch_of(run, float(size_s))
    memory.restart()
    run.measured.before_bytes = memory.peak_bytes()
    if run.way.kind == "caspi":
        run.measured.loss = train_step(run.loaded.model, optimizer, [batch], run.objective).loss
    else:
        run.measured.loss = native_step(run, optimizer, batch)
    run.measured.peak_bytes = memory.peak_bytes()
    run.count(batch)
    answer(run.measured)


def native_step(run: Run, optimizer: torch.optim.Optimizer, batch: Batch) -> float:
    """One update by transformers' own forward pass and loss."""
    inputs, dtype = native_inputs(batch.to(run.device), run.loaded.prompter.pad_id), run.objective.autocast
    with torch.autocast(run.device.type, dtype=dtype, enabled=dtype is not None):
        loss = run.loaded.model(**inputs).loss
    loss.backward()
    torch.nn.utils.clip_grad_norm_(run.loaded.model.parameters(), run.objective.max_grad_norm, foreach=True)
    optimizer.step()
    return float(loss)


def batch_of(run: Run, size_s: float) -> Batch:
    """Utterances around the mean length, as many as fill so many seconds."""
    lengths_s = np.asarray(run.index.durations_s)
    nearest = np.argsort(np.abs(lengths_s - lengths_s.mean()))
    padded_s = np.maximum.accumulate(lengths_s[nearest]) * np.arange(1, len(nearest) + 1)
    return run.batch(nearest[: int(np.searchsorted(padded_s, size_s, side="right"))])


if __name__ == "__main__":
    main(*sys.argv[1:])
