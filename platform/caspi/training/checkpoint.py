"""What a run needs to go on: weights, optimizer, and the place in the plan. Hashed, so that damage is seen.

CHECKPOINT/
  model/                  a model like any other: what would be kept of the run, so averaged and its adapters merged
  trained.safetensors     where those differ, the weights that are trained, and averages of adapters
  optimizer.safetensors   AdamW's moments, by the names of the weights
  state.json              where the run stands
  sha256.json             of each file above

The learning rate, the order, the augmentation and the random numbers of a step are functions of the seed and the step,
so there is no schedule or generator whose state would have to be kept.
"""

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Collection, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from caspi.errors import TrainingError
from caspi.model import Loaded
from caspi.model.adapters import is_adapted, native_weights
from caspi.training.ema import Ema, kept
from caspi.training.sharding import is_shared, put, whole

_HASHES = "sha256.json"
_STATE = "state.json"
_OPTIMIZER = "optimizer.safetensors"
_TRAINED = "trained.safetensors"


@dataclass(frozen=True, slots=True)
class Grade:
    """How good the model was after a step, by transcribing a part of the validation split."""

    step: int
    wer: float
    cer: float

    @property
    def rank(self) -> tuple[float, float, int]:
        """Smaller is better: by WER, then by CER, then the later model."""
        return self.wer, self.cer, -self.step


@dataclass(frozen=True, slots=True)
class State:
    """How far a run has come. With the seed and the settings in the recipe it says all that comes after."""

    epoch: int = 0
    step_in_epoch: int = 0  # the next step to do
    step: int = 0  # optimizer updates done, over all epochs
    max_micro_batch_s: float | None = None  # smaller than the recipe's, since memory ran out
    grades: tuple[Grade, ...] = field(default=())  # of the models so far, oldest first

    def after_step(self, *, steps_in_epoch: int) -> Self:
        """The place after one more update."""
        if self.step_in_epoch + 1 == steps_in_epoch:
            return replace(self, epoch=self.epoch + 1, step_in_epoch=0, step=self.step + 1)
        return replace(self, step_in_epoch=self.step_in_epoch + 1, step=self.step + 1)

    def graded(self, grade: Grade) -> Self:
        """With one more grade; a step that was done again is graded anew."""
        others = [each for each in self.grades if each.step != grade.step]
        return replace(self, grades=tuple(sorted([*others, grade], key=lambda each: each.step)))

    @property
    def best(self) -> tuple[Grade, ...]:
        """The grades, best first."""
        return tuple(sorted(self.grades, key=lambda grade: grade.rank))

    @property
    def num_without_gain(self) -> int:
        """Models in a row, up to the last, that were not better than one before them."""
        if not self.grades:
            return 0
        best = min((grade.wer, grade.cer) for grade in self.grades)
        first = next(place for place, grade in enumerate(self.grades) if (grade.wer, grade.cer) == best)
        return len(self.grades) - 1 - first

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Self:
        return cls(**values | {"grades": tuple(Grade(**grade) for grade in values["grades"])})


@dataclass(frozen=True)
class Snapshot:
    """A copy of everything, in the memory of the host: training may go on while it is written."""

    state: State
    weights: dict[str, torch.Tensor]  # of the model that would be kept
    trained: dict[str, torch.Tensor]  # weights that those do not have in them; often none
    moments: dict[str, torch.Tensor]

    @classmethod
    def take(
        cls,
        loaded: Loaded,
        optimizer: torch.optim.Optimizer,
        state: State,
        ema: Ema | None = None,
        *,
        is_kept: bool = True,
    ) -> Self:
        """Copy weights and optimizer. Of a sharded model all ranks must.

        Args:
            is_kept: not on a rank that only helps another to copy what they share: then nothing is in it.
        """

        def copy(tensor: torch.Tensor) -> torch.Tensor:
            gathered = whole(tensor.detach())
            return gathered.to("cpu", copy=True) if is_kept else torch.empty(0)

        with kept(loaded.model, ema):
            # Weights that are tied are one tensor in the model, and must be one in the copy to be saved once.
            copies: dict[int | str, torch.Tensor] = {}
            weights = {
                name: copies.setdefault(name if is_shared(tensor) else tensor.data_ptr(), copy(tensor))
                for name, tensor in native_weights(loaded.model).items()
            }
        trained = {name: copy(tensor) for name, tensor in _trained(loaded.model, ema).items()}
        moments = {name: copy(torch.as_tensor(own[key])) for name, own, key in _moments(loaded.model, optimizer)}
        return cls(state, weights, trained, moments)

    def write(self, folder: Path, loaded: Loaded) -> None:
        """Write all files into an empty folder, and see that they reach the disk. `loaded` says what kind of model.

        Raises:
            OSError: the disk is full, or gone.
        """
        with _os_errors():
            loaded.save(folder / "model", weights=self.weights)
            save_file(self.moments, folder / _OPTIMIZER)
            if self.trained:
                save_file(self.trained, folder / _TRAINED)
        (folder / _STATE).write_text(json.dumps(self.state.to_json(), indent=1), encoding="utf-8")
        hashes = {str(path.relative_to(folder)): _sha256(path) for path in _files(folder)}
        (folder / _HASHES).write_text(json.dumps(hashes, indent=1), encoding="utf-8")
        for path in (*_files(folder), folder / _HASHES, folder / "model", folder):
            _sync(path)


def restore(folder: Path, loaded: Loaded, optimizer: torch.optim.Optimizer, ema: Ema | None = None) -> State:
    """Put a checkpoint's weights and moments into `loaded`, `optimizer` and `ema`. Verify it before.

    The weights below adapters stay: they are those that the run began with.

    Raises:
        TrainingError: it is of another model.
    """
    try:
        if not is_adapted(loaded.model):
            put_weights(loaded.model, load_file(folder / "model" / "model.safetensors"))
        if ema:
            ema.restart()  # what is kept is the average
        trained = _trained(loaded.model, ema)
        saved = load_file(folder / _TRAINED) if trained else {}
        _check_names(saved, trained)
        for name, tensor in trained.items():
            put(tensor, saved[name])
        moments = list(_moments(loaded.model, optimizer))
        saved = load_file(folder / _OPTIMIZER)
        _check_names(saved, [name for name, _, _ in moments])
        for name, own, key in moments:
            if isinstance(own[key], torch.Tensor):
                put(own[key], saved[name])
            else:  # bitsandbytes counts steps in Python
                own[key] = saved[name].item()
    except (RuntimeError, FileNotFoundError) as error:
        raise TrainingError(f"{folder}: a checkpoint of another model: {str(error).splitlines()[0]}") from error
    return read_state(folder)


def put_weights(model: Any, weights: dict[str, torch.Tensor]) -> None:
    """Give a model other weights, whole ones, in which those that are tied are there once.

    Raises:
        RuntimeError: they are of another model.
    """
    own = native_weights(model)
    tied = {name for name in own if name not in weights}
    places = {tensor.data_ptr() for name, tensor in own.items() if name not in tied and not is_shared(tensor)}
    if weights.keys() - own.keys() or any(own[name].data_ptr() not in places for name in tied):
        raise RuntimeError(f"it has {len(weights)} weights, and this model {len(own)} or others")
    for name, tensor in weights.items():
        put(own[name], tensor)


def read_state(folder: Path) -> State:
    """Where the run stood at a checkpoint."""
    return State.from_json(json.loads((folder / _STATE).read_text(encoding="utf-8")))


def hashes(folder: Path) -> dict[str, str]:
    """The SHA-256 of each file of a checkpoint, as written beside them."""
    found: dict[str, str] = json.loads((folder / _HASHES).read_text(encoding="utf-8"))
    return found


def files(folder: Path) -> tuple[dict[str, str], dict[str, int]]:
    """The hash and the size in bytes of each file of a checkpoint."""
    written = hashes(folder)
    return written, {name: (folder / name).stat().st_size for name in written}


def damage(folder: Path) -> str | None:
    """What is wrong with a checkpoint, or None: each file is there and as it was written."""
    try:
        expected = hashes(folder)
    except (OSError, ValueError):
        return f"{_HASHES} is not readable"
    if not {_STATE, _OPTIMIZER, "model/model.safetensors"} <= expected.keys():
        return f"{_HASHES} is not whole"
    changed = sorted(name for name, digest in expected.items() if _sha256(folder / name) != digest)
    return f"changed since it was written: {', '.join(changed)}" if changed else None


def _trained(model: Any, ema: Ema | None) -> dict[str, torch.Tensor]:
    """What of the trained weights and of their averages is not in the model that is kept."""
    adapted = is_adapted(model)
    trained = {name: weight.detach() for name, weight in model.named_parameters() if weight.requires_grad}
    own = {f"weight.{name}": weight for name, weight in trained.items()} if adapted or ema else {}
    if adapted and ema:
        own |= {f"average.{name}": average for name, average in ema.averages.items()}
    return own


def _moments(model: Any, optimizer: torch.optim.Optimizer) -> Iterator[tuple[str, dict[str, Any], str]]:
    """The optimizer's own values: their names, by the weight they belong to, and where in the optimizer they are."""
    for name, parameter in model.named_parameters():
        if parameter in optimizer.state:
            own = optimizer.state[parameter]
            for key in own:
                yield f"{key}.{name}", own, key


def _check_names(saved: Collection[str], own: Collection[str]) -> None:
    if set(saved) != set(own):
        raise RuntimeError(f"it has {len(saved)} trained tensors or moments, and this run {len(own)} or others")


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.name != _HASHES)


def _sha256(path: Path) -> str | None:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None


@contextlib.contextmanager
def _os_errors() -> Iterator[None]:
    """Let safetensors raise what Python would: it puts the system's error into words of its own."""
    try:
        yield
    except SafetensorError as error:
        if found := re.search(r"\(os error (\d+)\)", str(error)):
            number = int(found[1])
            raise OSError(number, os.strerror(number)) from error
        raise


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
