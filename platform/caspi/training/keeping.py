"""What rank 0 does beside the steps: checkpoints written and pruned, models judged, the best one at RUN/model."""

import json
import shutil
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray.exceptions
import torch

from caspi.errors import CaspiError, TrainingError
from caspi.model import Loaded
from caspi.recipe import Recipe
from caspi.training import checkpoint
from caspi.training.checkpoint import Grade, Snapshot, State, read_state
from caspi.training.job import Job
from caspi.training.store import Background, Store, replaced
from caspi.training.validation import Aside, Judgement

_ORIGIN = "training.json"  # in RUN/model: which steps of the run it is of


@dataclass
class Keeper:
    """Keeps checkpoints in `store` and the best model in `model`, from a thread of its own."""

    recipe: Recipe
    store: Store
    model: Path
    loaded: Loaded  # what kind of model; its weights are not touched
    aside: Aside | None  # None: models are judged by the workers themselves
    _background: Background = field(default_factory=Background)
    _removed: deque[int] = field(default_factory=deque)  # steps, since `removed` was asked last
    _written: deque[tuple[State, bool]] = field(default_factory=deque)  # since `written` was asked last; to be judged?
    _grades: dict[int, Grade] = field(default_factory=dict)  # from aside, by step

    @classmethod
    def open(cls, job: Job, store: Store, loaded: Loaded, state: State) -> "Keeper":
        """Take over where `state` stands; what was being judged when the workers before died is judged again."""
        aside = Aside(job.recipe, job.corpus) if job.judges_aside else None
        keeper = cls(job.recipe, store, job.output / "model", loaded, aside)
        graded = {grade.step for grade in state.grades}
        if aside is not None:
            for step in store.steps():
                if step not in graded and is_judged(job.recipe, read_state(store.path(step))):
                    aside.begin(step, store.path(step))
        return keeper

    def close(self) -> None:
        self._background.close()

    def save(self, snapshot: Snapshot, *, judge: bool) -> None:
        """Start writing a checkpoint. Wait before it is taken: no more than one copy of the model is in memory."""
        self._background.do(self._write, snapshot, judge)

    def wait(self) -> None:
        """Wait until all work is done.

        Raises:
            StorageError: some of it could not be.
        """
        self._background.wait()

    def written(self) -> Iterator[State]:
        """The checkpoints that have become whole since the last call; those that wait for it are given to be judged.

        Raises:
            StorageError: one could not be written.
        """
        self._background.check()
        while self._written:
            state, judge = self._written[0]
            if judge and self.aside is not None:
                self.aside.begin(state.step, self.store.path(state.step))
            self._written.popleft()
            yield state

    def removed(self) -> Iterator[int]:
        """Steps whose checkpoints were removed since the last call."""
        while self._removed:
            yield self._removed.popleft()

    def judged(self, *, all_of_them: bool = False) -> Iterator[Judgement]:
        """Judgements that have come from aside.

        Raises:
            TrainingError: a task that judged failed too often.
        """
        if self.aside is None:
            return
        try:
            for judgement in self.aside.rest() if all_of_them else self.aside.done():
                self._grades[judgement.grade.step] = judgement.grade
                yield judgement
        except ray.exceptions.RayError as error:
            raise _explain(error) from error

    def tidy(self, state: State) -> None:
        """Let RUN/model be the best so far, and remove what is not needed any more, after the work that waits."""
        self._background.do(self._tidy, state)

    def replace_model(self, weights: dict[str, torch.Tensor], origin: dict[str, Any]) -> None:
        """Let RUN/model be one that is no checkpoint."""
        self._background.do(self._replace_model, weights, origin)

    def _write(self, snapshot: Snapshot, judge: bool) -> None:
        self.store.write(snapshot, self.loaded)
        self._written.append((snapshot.state, judge))
        self._tidy(snapshot.state)

    def _tidy(self, state: State) -> None:
        # First these, then the grades: whoever is judged meanwhile has a grade before it stops waiting. `state` may be
        # older than some.
        waiting = {state.step for state, _ in list(self._written)} | (self.aside.steps if self.aside else frozenset())
        for grade in list(self._grades.values()):
            state = state.graded(grade)
        steps, best = self.store.steps(), [grade.step for grade in state.best]
        # Without a validation split, the newest is the best there is.
        self._keep_best(best or steps[-1:])
        settings = self.recipe.training
        kept = {*steps[-settings.checkpoints.num_to_keep :], *best[: max(1, settings.validation.average_best)]}
        self._removed += self.store.prune(kept | waiting)

    def _keep_best(self, best: Sequence[int]) -> None:
        """Let RUN/model be the first of these that is there whole."""
        for step in best:
            path = self.store.path(step)
            if _origin(self.model).get("step") == step:
                return
            if path.exists() and checkpoint.damage(path) is None:
                with replaced(self.model) as fresh:
                    shutil.copytree(path / "model", fresh)
                    _write_origin(fresh, {"step": step})
                return

    def _replace_model(self, weights: dict[str, torch.Tensor], origin: dict[str, Any]) -> None:
        with replaced(self.model) as fresh:
            self.loaded.save(fresh, weights=weights)
            _write_origin(fresh, origin)


def _origin(model: Path) -> dict[str, Any]:
    """Which steps of the run RUN/model is of."""
    try:
        origin: dict[str, Any] = json.loads((model / _ORIGIN).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return origin


def _write_origin(model: Path, origin: dict[str, Any]) -> None:
    (model / _ORIGIN).write_text(json.dumps(origin), encoding="utf-8")


def is_judged(recipe: Recipe, state: State) -> bool:
    """Whether the model is judged at this place: before the first step, every so many steps or each epoch."""
    return _is_due(state, recipe.training.validation.every_steps)


def is_saved(recipe: Recipe, state: State) -> bool:
    """Whether a checkpoint is due at this place: whenever the model is judged, and in between."""
    return is_judged(recipe, state) or _is_due(state, recipe.training.checkpoints.every_steps)


def _is_due(state: State, every_steps: int | None) -> bool:
    return state.step_in_epoch == 0 if every_steps is None else state.step % every_steps == 0


def _explain(error: Exception) -> CaspiError:
    cause = getattr(error, "cause", None)
    if isinstance(cause, CaspiError):
        return cause
    return TrainingError(f"judging a checkpoint failed: {type(error).__name__}: {str(error).strip().splitlines()[-1]}")
