"""Peak memory of one update from one micro-batch, in this process. Called by train.py.

python -m tests.benchmarks.training_memory FOLDER SECONDS few|full

`few` is Caspi's loss, `full` transformers' own: logits at every position. The last line printed is JSON.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch

from caspi.model import Batch
from caspi.training.step import Objective, build_optimizer, train_step
from tests.benchmarks.training_ways import SETTINGS, Run, native_inputs, peak_bytes


def main(folder: str, size_s: str, logits: str) -> None:
    run = Run.open(Path(folder))
    batch = batch_of(run, float(size_s))
    optimizer = build_optimizer(run.loaded.model, SETTINGS.optimizer)
    before_bytes = peak_bytes()
    if logits == "few":
        objective = Objective(torch.device("cpu"), autocast=None, max_grad_norm=SETTINGS.optimizer.max_grad_norm)
        train_step(run.loaded.model, optimizer, [batch], objective)
    else:
        run.loaded.model(**native_inputs(batch, run.loaded.prompter.pad_id)).loss.backward()
        torch.nn.utils.clip_grad_norm_(run.loaded.model.parameters(), SETTINGS.optimizer.max_grad_norm, foreach=True)
        optimizer.step()
    measured = {
        "padded_s": batch.padded_s,
        "num_tokens": batch.num_tokens,
        "num_supervised": batch.num_supervised,
        "before_bytes": before_bytes,
        "peak_bytes": peak_bytes(),
    }
    print(json.dumps(measured))


def batch_of(run: Run, size_s: float) -> Batch:
    """Utterances around the mean length, as many as fill so many seconds."""
    lengths_s = np.asarray(run.index.durations_s)
    nearest = np.argsort(np.abs(lengths_s - lengths_s.mean()))
    num_utterances = int(
        np.searchsorted(
            np.maximum.accumulate(lengths_s[nearest]) * np.arange(1, len(nearest) + 1), size_s, side="right"
        )
    )
    return run.batch(nearest[:num_utterances])


if __name__ == "__main__":
    main(*sys.argv[1:])
