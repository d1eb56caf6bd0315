"""The average of the best checkpoints' weights (arXiv 1803.05407), kept if it is better than the best of them."""

from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file

from caspi.model.adapters import native_weights
from caspi.training.keeping import Keeper
from caspi.training.progress import Progress
from caspi.training.store import Store
from caspi.training.worker import Worker, from_rank_0


def try_average(worker: Worker, keeper: Keeper | None, progress: Progress) -> None:
    """Judge the average of the `training.validation.average_best` best models; let it be the run's if it wins.

    Every rank must call it, since all of them transcribe.
    """
    wanted = worker.job.recipe.training.validation.average_best
    if wanted < 2:
        return
    best = worker.state.best  # of rank 0, who alone knows of those that were judged aside
    if keeper is not None:
        present = keeper.store.steps()
        best = tuple(grade for grade in best if grade.step in present)[:wanted]
    best = from_rank_0(best, worker.world_size)
    if len(best) < 2:
        return
    folder = worker.job.output / "checkpoints"
    weights = average([Store(folder).path(grade.step) / "model" / "model.safetensors" for grade in best])
    with worker.kept():  # what it holds is on the disk, and not needed any more
        for name, weight in native_weights(worker.loaded.model).items():
            if name in weights:  # tied ones are stored once
                weight.copy_(weights[name])
        judgement = worker.examiner.judge(worker.state.step, autocast=worker.autocast)
    assert judgement is not None, "models were graded, so there is a validation split"
    progress.judged(worker.state, judgement, event="average")
    is_better = (judgement.grade.wer, judgement.grade.cer) < (best[0].wer, best[0].cer)
    if keeper is not None and is_better:
        keeper.replace_model(weights, {"average_of_steps": [grade.step for grade in best]})


def average(files: Sequence[Path]) -> dict[str, torch.Tensor]:
    """The mean of several models' weights, one model in memory at a time."""
    total: dict[str, torch.Tensor] = {}
    for file in files:
        for name, tensor in load_file(file).items():
            total[name] = total[name] + tensor.double() if name in total else tensor.double()
    return {name: (tensor / len(files)).float() for name, tensor in total.items()}
