"""What a run needs to go on: weights, optimizer, and the place in the plan. Hashed, so that damage is seen.

Nothing in a step draws from a global random generator (order and augmentation follow from the seed, there is no
dropout), so there is no generator state to keep.
"""

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from caspi.errors import TrainingError
from caspi.model import Loaded

_HASHES = "sha256.json"


@dataclass(frozen=True, slots=True)
class Cursor:
    """How far a run has come."""

    epoch: int = 0
    step_in_epoch: int = 0  # the next step to do
    step: int = 0  # optimizer updates done, over all epochs
    best_wer: float | None = None  # of the model that is kept
    best_cer: float | None = None

    def is_best(self, wer: float, cer: float) -> bool:
        """Whether these are the best so far: by WER, then by CER, then the later model."""
        return self.best_wer is None or (wer, cer) <= (self.best_wer, self.best_cer or 0.0)

    def after_step(self, *, steps_in_epoch: int) -> "Cursor":
        """The place after one more update."""
        if self.step_in_epoch + 1 == steps_in_epoch:
            return replace(self, epoch=self.epoch + 1, step_in_epoch=0, step=self.step + 1)
        return replace(self, step_in_epoch=self.step_in_epoch + 1, step=self.step + 1)


def name(cursor: Cursor) -> str:
    """The checkpoint's folder."""
    return f"checkpoint-{cursor.step:06d}"


def save(folder: Path, loaded: Loaded, optimizer: torch.optim.Optimizer, cursor: Cursor) -> None:
    """Write a checkpoint into an empty folder. `folder/model` is a model like any other."""
    loaded.save(folder / "model")
    torch.save(optimizer.state_dict(), folder / "optimizer.pt")
    (folder / "cursor.json").write_text(json.dumps(asdict(cursor)), encoding="utf-8")
    (folder / _HASHES).write_text(json.dumps(_hashes(folder), indent=1), encoding="utf-8")


def restore(folder: Path, loaded: Loaded, optimizer: torch.optim.Optimizer) -> Cursor:
    """Put a checkpoint's state into `loaded` and `optimizer`.

    Raises:
        TrainingError: a file is missing or was changed since it was written.
    """
    from safetensors.torch import load_model

    verify(folder)
    load_model(loaded.model, folder / "model" / "model.safetensors")
    optimizer.load_state_dict(torch.load(folder / "optimizer.pt", weights_only=True, map_location="cpu"))
    return Cursor(**json.loads((folder / "cursor.json").read_text(encoding="utf-8")))


def verify(folder: Path) -> None:
    """Compare every file with the hash that was written beside it."""
    try:
        expected = json.loads((folder / _HASHES).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise TrainingError(f"{folder}: not a whole checkpoint: {_HASHES} is not readable") from error
    damaged = sorted(name for name, digest in expected.items() if _sha256(folder / name) != digest)
    if damaged:
        raise TrainingError(f"{folder}: damaged checkpoint: {', '.join(damaged)} changed since it was written")


def _hashes(folder: Path) -> dict[str, str | None]:
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != _HASHES)
    return {str(path.relative_to(folder)): _sha256(path) for path in files}


def _sha256(path: Path) -> str | None:
    if not path.is_file():
        return None
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
