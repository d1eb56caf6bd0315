"""The weights of a model folder: which tensors it holds, found without reading them, and read without copying them."""

import contextlib
import hashlib
import json
import shutil
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from caspi.errors import ModelError

_SINGLE = "model.safetensors"
_INDEX = "model.safetensors.index.json"

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Weights:
    """Names, places and shapes of all tensors in a folder's safetensors files."""

    folder: Path
    files: Mapping[str, str]  # tensor -> file
    shapes: Mapping[str, Shape]

    @classmethod
    def open(cls, folder: Path) -> "Weights":
        """Read the headers of `model.safetensors`, or of the files that its index names.

        Raises:
            ModelError: a file is not there or damaged, or a tensor stands in two of them.
        """
        files: dict[str, str] = {}
        shapes: dict[str, Shape] = {}
        for file in _file_names(folder):
            with _opened(folder / file) as tensors:
                for name in tensors.keys():  # noqa: SIM118, not a dict
                    if name in files:
                        raise ModelError(f"{folder}: {name} stands in {files[name]} and in {file}; expected it once")
                    files[name] = file
                    shapes[name] = tuple(tensors.get_slice(name).get_shape())
        return cls(folder, files, shapes)

    @property
    def file_names(self) -> list[str]:
        return sorted(set(self.files.values()))

    def check(self, expected: Mapping[str, Shape], *, optional: Collection[str] = ()) -> None:
        """Make sure that exactly these tensors are there, in these shapes.

        Raises:
            ModelError: some are not. A missing weight would be random, an unexpected one ignored.
        """
        wrong = [
            f"{name} is {list(self.shapes[name])} instead of {list(shape)}"
            for name, shape in expected.items()
            if self.shapes.get(name, shape) != shape
        ]
        problems = {
            "missing": sorted(expected.keys() - self.shapes.keys() - set(optional)),
            "unexpected": sorted(self.shapes.keys() - expected.keys()),
            "of another shape": wrong,
        }
        if any(problems.values()):
            said = "; ".join(f"{kind}: {_few(names)}" for kind, names in problems.items() if names)
            raise ModelError(f"{self.folder}: the weights do not fit config.json; {said}")

    def read(self, file: str) -> dict[str, torch.Tensor]:
        """The tensors of one file, mapped into memory: a page is read when it is used, and can be dropped again."""
        with _opened(self.folder / file) as tensors:
            return dict(tensors.get_tensors())

    def tensor(self, name: str) -> torch.Tensor:
        """One tensor, mapped likewise, and not the same memory as any other call gives."""
        with _opened(self.folder / self.files[name]) as tensors:
            return tensors.get_tensor(name)


def digest(folder: Path) -> str:
    """One hash over the files with a model's weights."""
    hashes = []
    for name in _file_names(folder):
        with (folder / name).open("rb") as file:
            hashes.append(f"{name} {hashlib.file_digest(file, 'sha256').hexdigest()}")
    return hashlib.sha256("\n".join(hashes).encode()).hexdigest()


def write(folder: Path, parts: Iterator[tuple[str, dict[str, torch.Tensor]]]) -> None:
    """Write files of tensors one after the other, and their index where there is more than one."""
    places: dict[str, str] = {}
    num_bytes = 0
    for file, tensors in parts:
        save_file(tensors, folder / file, metadata={"format": "pt"})
        places |= dict.fromkeys(tensors, file)
        num_bytes += sum(tensor.nbytes for tensor in tensors.values())
    if len(set(places.values())) > 1:
        index = {"metadata": {"total_size": num_bytes}, "weight_map": dict(sorted(places.items()))}
        (folder / _INDEX).write_text(json.dumps(index, indent=2), encoding="utf-8")


def make_readable(folder: Path) -> None:
    """Give the weights the permissions that config.json has: safetensors writes them for their owner alone."""
    for path in folder.glob("*.safetensors"):
        shutil.copymode(folder / "config.json", path)


def _file_names(folder: Path) -> list[str]:
    """As transformers looks for them: one file, else the files of an index."""
    if (folder / _SINGLE).is_file():
        return [_SINGLE]
    index = folder / _INDEX
    try:
        return sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except FileNotFoundError as error:
        raise ModelError(f"{folder}: no weights: neither {_SINGLE} nor {_INDEX} is there") from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{index}: not an index of weights: {error}") from error


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        with safe_open(path, framework="pt") as tensors:
            yield tensors
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{path}: not readable as safetensors: {error}; copy or download it once more") from error


def _few(names: Sequence[str], *, most: int = 5) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
