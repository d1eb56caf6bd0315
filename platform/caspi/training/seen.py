"""A record of which utterances each step saw, where `training.record_utterances` asks for it.

RUN/seen/<group>-<rank>.jsonl, a line a step. A group of workers that died may have done steps that the next one did
again: of each step, the last group's lines count.
"""

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Self

import numpy as np


class Record:
    """Writes what one rank sees. Used as a context."""

    def __init__(self, file: IO[str] | None) -> None:
        self._file = file

    @classmethod
    def open(cls, folder: Path, *, group: str, rank: int, wanted: bool) -> Self:
        """Open this rank's file; when it is not wanted, `add` does nothing. `group` is the same on all ranks."""
        if not wanted:
            return cls(None)
        folder.mkdir(parents=True, exist_ok=True)
        return cls((folder / f"{group}-{rank:05d}.jsonl").open("w", encoding="utf-8"))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()

    def add(self, step: int, items: np.ndarray) -> None:
        """Step `step`, counted from 1, has seen these items of the plan."""
        if self._file is not None:
            self._file.write(json.dumps({"step": step, "items": items.tolist()}) + "\n")
            self._file.flush()


def new_group() -> str:
    """A name for a group of workers that sorts behind those of earlier ones."""
    return f"{time.time_ns():020d}"


def read(folder: Path) -> dict[int, list[int]]:
    """The items of each step that counts, over all ranks; `caspi.training.items` says which utterance one is."""
    last: dict[int, str] = {}
    seen: dict[int, list[int]] = {}
    for path in sorted(folder.glob("*.jsonl")):
        group = path.name.partition("-")[0]
        for step, items in _lines(path):
            if last.get(step) != group:
                last[step], seen[step] = group, []
            seen[step] += items
    return seen


def _lines(path: Path) -> Sequence[tuple[int, list[int]]]:
    lines = path.read_text(encoding="utf-8").split("\n")[:-1]  # the last one may be half written
    return [(line["step"], line["items"]) for line in map(json.loads, lines)]
