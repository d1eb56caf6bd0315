"""What the driver tells the workers of a run, and what they tell it at the end."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from caspi.corpus import Corpus
from caspi.errors import CaspiError
from caspi.recipe import Recipe


@dataclass(frozen=True, slots=True)
class MemoryLimit:
    """A device with less memory than this one, for tests and drills.

    On `rank`, from update `step` on (counted from 0), more than `max_padded_s` of audio at once run out of memory.
    """

    rank: int
    step: int
    max_padded_s: float


@dataclass(frozen=True, slots=True)
class Job:
    """A run, as every worker gets it. Paths are absolute and on storage that all machines see."""

    recipe: Recipe
    corpus: Corpus
    start: str  # where weights come from: a folder or a Hub id
    output: Path
    tracking_uri: str
    run_id: str
    start_digest: str | None = None  # of the weights at `start`, where checkpoints depend on it
    judges_aside: bool = False
    memory_limit: MemoryLimit | None = None
    profile_steps: int = 0  # of which each rank writes a trace


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a group of workers ended its work, all of them together."""

    kind: Literal["finished", "preempted", "failed"]
    error: CaspiError | None = None
