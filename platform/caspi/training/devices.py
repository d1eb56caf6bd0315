"""What devices can compute and what they cost: a table of GPUs, and a measurement of CPUs."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from typing import Any

import torch
import yaml

_MATRIX = 1024  # a side; its product takes some milliseconds, and more than caches hold
_TRIALS = 5


@dataclass(frozen=True, slots=True)
class Gpu:
    """A kind of GPU that `caspi plan` knows."""

    name: str
    peak_flops: float  # a second
    memory_gib: float
    on_demand: float  # USD an hour: an example
    spot: float


@lru_cache(maxsize=1)
def _table() -> Mapping[str, Any]:
    text = resources.files("caspi.training").joinpath("devices.yaml").read_text(encoding="utf-8")
    table: Mapping[str, Any] = yaml.safe_load(text)
    return table


def gpus() -> dict[str, Gpu]:
    """The GPUs that can be planned for, by the names that `caspi plan --gpu` takes."""
    return {
        name: Gpu(name, row["peak_tflops"] * 1e12, row["memory_gib"], row["on_demand"], row["spot"])
        for name, row in _table()["gpus"].items()
    }


def prices_as_of() -> str:
    """The month of the example prices."""
    return str(_table()["prices_as_of"])


def peak_flops(device: torch.device) -> float | None:
    """FLOPs a second that a device could do: by its name, or of a CPU by trying. None: a GPU that we do not know."""
    if device.type == "cuda":
        return peak_of_name(torch.cuda.get_device_name(device))
    return _measured_flops()


def peak_of_name(name: str) -> float | None:
    """FLOPs a second of a GPU by its name in torch, dense bf16."""
    rows = [*_table()["gpus"].values(), *_table()["others"]]
    peaks = {part: row["peak_tflops"] * 1e12 for row in rows for part in row["torch_names"]}
    # Whole words: an L40 is no L4.
    fitting = [part for part in peaks if f" {part} " in f" {name} " or f" {part}-" in f" {name} "]
    return peaks[max(fitting, key=len)] if fitting else None


def _measured_flops() -> float:
    """The best of a few products of matrices in fp32, on the threads that training has. Takes a tenth of a second."""
    matrix = torch.ones(_MATRIX, _MATRIX)
    seconds = []
    for _ in range(_TRIALS):
        started = time.perf_counter()
        matrix @ matrix
        seconds.append(time.perf_counter() - started)
    return 2 * _MATRIX**3 / min(seconds)
