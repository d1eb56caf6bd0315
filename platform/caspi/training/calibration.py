"""How much audio fits into a worker's memory at once: tried before the first step, with a few real micro-batches.

What a micro-batch needs is linear in its tokens, audio tokens and supervised positions, and in the square of its
longest row where masks are made. The rates depend on the device, the model and the settings, and are found from
batches that grow until the next would be too large. Where the plan's own batches then come near the limit they are
tried as well, so that the bounds rest on what was seen and not on a far extrapolation.

All ranks try the same batches and take the largest need of any, so they come to the same bounds.
"""

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
import transformers
from scipy.optimize import nnls

import caspi
from caspi.corpus.commit import write_text
from caspi.recipe.sections import Training
from caspi.training.bounds import Bounds
from caspi.training.footprint import GIB, Load
from caspi.training.sample import NARROWEST_S, Needs, Reserve, Sample
from caspi.training.step import DoesNotFit

Try = Callable[[np.ndarray], tuple[Load, float]]
"""Items of the plan to what they were and the most bytes that any rank used; infinite where memory ran out."""

_GROWTH = 2.0
_NUM_CHECKS = 4
_ENOUGH_S = 120.0  # after which no larger batch is tried

_REMEDIES = (
    "lower data.filters.max_duration_s, turn on training.gradient_checkpointing, raise training.workers.memory_gib, or "
    "take GPUs with more memory"
)

# Of a run's settings those that change nothing of what a micro-batch needs.
_FREE = {"epochs", "seed", "mixture", "validation", "checkpoints", "cost", "log_every_steps", "record_utterances"}


@dataclass(frozen=True, slots=True)
class MemoryModel:
    """Bytes that a worker needs at most while it computes a micro-batch."""

    base: float
    rates: tuple[float, ...]  # bytes for one of each field of Load, of the last for its square

    @classmethod
    def fit(cls, loads: np.ndarray, used: np.ndarray) -> Self:
        """From what some loads, (num_trials, fields of Load), used. None of them is above the model."""
        amounts = np.column_stack([np.ones(len(loads)), _amounts(loads)])
        scale = amounts.max(0)
        scale[scale == 0] = 1
        # The large ones matter, since it is the limit that must not be missed.
        weights = (0.1 + loads[:, 0] / loads[:, 0].max())[:, None]
        solution, _ = nnls(weights * amounts / scale, weights[:, 0] * used)
        base, *rates = solution / scale
        missing = float((used - amounts @ [base, *rates]).max())
        return cls(float(base + max(0.0, missing)), tuple(map(float, rates)))

    def __call__(self, loads: np.ndarray) -> np.ndarray:
        """Bytes for each of some loads, (num_loads, fields of Load)."""
        needed: np.ndarray = self.base + _amounts(loads) @ np.array(self.rates)
        return needed


def _amounts(loads: np.ndarray) -> np.ndarray:
    amounts = np.asarray(loads, np.float64).copy()
    amounts[:, -1] **= 2
    return amounts


@dataclass(frozen=True, slots=True)
class Calibration:
    """What came of it: the same on all ranks."""

    bounds: Bounds
    model: MemoryModel
    expected_bytes: float  # of the largest micro-batch of the run
    limit_bytes: float
    num_trials: int  # 0: known from before
    seconds: float

    def __str__(self) -> str:
        how = (
            f"tried with {self.num_trials} batches in {self.seconds:.0f} s" if self.num_trials else "known from before"
        )
        return (
            f"each worker computes up to {self.bounds.max_micro_batch_s:.0f} s of audio "
            f"({self.bounds.max_micro_batch_tokens:,} tokens) at once: "
            f"{self.expected_bytes / GIB:.2f} of {self.limit_bytes / GIB:.2f} GiB "
            f"({self.expected_bytes / self.limit_bytes:.0%}), of which {self.model.base / GIB:.2f} "
            f"whatever it computes ({how})"
        )


@dataclass
class Calibrator:
    """Tries micro-batches."""

    sample: Sample
    attempt: Try
    limit_bytes: float
    reserve: Reserve
    _loads: list[np.ndarray] = field(default_factory=list)
    _used: list[float] = field(default_factory=list)
    _tried: set[bytes] = field(default_factory=set)

    def run(self, known: MemoryModel | None = None) -> Calibration:
        """Find the bounds, by what is known already or by trying.

        Raises:
            DoesNotFit: some utterance alone needs more than there is.
        """
        started = time.perf_counter()
        if known is None:
            self._grow(started + _ENOUGH_S)
            model, bounds = self._check()
        else:
            model, bounds = known, self._widest(known)
        expected = model(self.sample.micro_batches(bounds)[1]).max()
        seconds = time.perf_counter() - started
        return Calibration(bounds, model, float(expected), self.limit_bytes, len(self._used), seconds)

    def _grow(self, deadline: float) -> None:
        """Try larger and larger batches, of each size the largest by every measure, until the next may not fit."""
        bound_s, widest_s = NARROWEST_S, self.sample.widest_s
        while True:
            groups, loads = self.sample.micro_batches(Bounds(bound_s))
            for place in dict.fromkeys([int(loads[:, 0].argmin()), *map(int, loads.argmax(0))]):
                is_known = len(self._used) > len(Load.FIELDS)
                if is_known and self._needs(self._model)(loads[[place]])[0] > self.reserve.usable(self.limit_bytes):
                    return
                if not self._try(groups[place]):
                    return
            if bound_s >= widest_s or time.perf_counter() > deadline:
                return
            bound_s = max(_GROWTH * bound_s, widest_s / 64)

    def _check(self) -> tuple[MemoryModel, Bounds]:
        """Try the largest batches of the bounds that were found, and correct them by what comes of it."""
        for _ in range(_NUM_CHECKS):
            bounds = self._widest(self._model)
            groups, loads = self.sample.micro_batches(bounds)
            if not self._try(groups[int(self._model(loads).argmax())]):
                break
        return self._model, self._widest(self._model)

    def _try(self, items: np.ndarray) -> bool:
        """Whether there was enough memory, or this was tried before."""
        if items.tobytes() in self._tried:
            return True
        load, used = self.attempt(items)
        if not np.isfinite(used):
            if not self._used:
                raise DoesNotFit(f"memory: ran out over the smallest micro-batch that there is; {_REMEDIES}")
            # More than the largest that went well used is not to be had, whatever the limit says.
            self.limit_bytes = min(self.limit_bytes, max(self._used))
            return False
        self._tried.add(items.tobytes())
        self._loads.append(load.as_array())
        self._used.append(used)
        return True

    @property
    def _model(self) -> MemoryModel:
        return MemoryModel.fit(np.stack(self._loads), np.array(self._used))

    def _needs(self, model: MemoryModel) -> Needs:
        return lambda loads: self.reserve.with_margin(model.base, model(loads) - model.base)

    def _widest(self, model: MemoryModel) -> Bounds:
        needs, usable = self._needs(model), self.reserve.usable(self.limit_bytes)
        bounds = self.sample.widest(needs, usable)
        if bounds is None:
            needed = needs(self.sample.micro_batches(Bounds(NARROWEST_S))[1]).max()
            raise DoesNotFit(
                f"memory: some utterance alone needs {needed / GIB:.2f} GiB, and a worker may use "
                f"{usable / GIB:.2f} of {self.limit_bytes / GIB:.2f}; {_REMEDIES}"
            )
        return bounds


@dataclass(frozen=True)
class Memory:
    """What was found before, a file for each kind of device, model and settings: FOLDER/HASH.json."""

    folder: Path
    key: dict[str, Any]

    @classmethod
    def of(cls, folder: Path, devices: list[str], limit_bytes: float, config: Any, training: Training) -> Self:
        settings = training.model_dump(mode="json", exclude=_FREE)
        # What the recipe says of steps and bounds is no property of the memory.
        del settings["workers"], settings["batches"]["step_audio_s"]
        versions = {"caspi": caspi.__version__, "torch": torch.__version__, "transformers": transformers.__version__}
        model = {key: value for key, value in config.to_dict().items() if not key.startswith("_")}
        values = {"devices": sorted(set(devices)), "limit_bytes": limit_bytes, "model": model, "training": settings}
        if training.sharding == "full":
            values["num_workers"] = len(devices)
        return cls(folder, values | versions)

    @property
    def _path(self) -> Path:
        text = json.dumps(self.key, sort_keys=True, default=str)
        return self.folder / f"{hashlib.sha256(text.encode()).hexdigest()[:16]}.json"

    def read(self) -> MemoryModel | None:
        """None: nothing was found before."""
        try:
            values = json.loads(self._path.read_text(encoding="utf-8"))
            return MemoryModel(values["base"], tuple(values["rates"]))
        except (OSError, ValueError, KeyError):
            return None

    def write(self, model: MemoryModel) -> None:
        """Keep a model for the next time."""
        self.folder.mkdir(parents=True, exist_ok=True)
        values = {"base": model.base, "rates": model.rates, "of": self.key}
        write_text(self._path, json.dumps(values, indent=1, default=str))
