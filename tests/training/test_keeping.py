"""Which checkpoints are kept while some are judged aside and another is being written."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from caspi.recipe import Recipe
from caspi.training.checkpoint import Grade, State
from caspi.training.keeping import Keeper
from caspi.training.validation import Judgement
from tests.training.whole_runs import changed

BEST = Grade(step=100, wer=0.1, cer=0.05)


class Store:
    """Checkpoints without files."""

    def __init__(self, steps: list[int]) -> None:
        self.there = steps

    def steps(self) -> list[int]:
        return list(self.there)

    def prune(self, keep: set[int]) -> list[int]:
        removed = [step for step in self.there if step not in keep]
        self.there = [step for step in self.there if step in keep]
        return removed


class Aside:
    """Judges the model of step 100, and tells when it is asked."""

    def __init__(self) -> None:
        self.waiting = {100}

    @property
    def steps(self) -> frozenset[int]:
        return frozenset(self.waiting)

    def done(self) -> Any:
        yield Judgement(BEST, (), "he", 1.0)
        self.waiting.clear()


@pytest.fixture
def keeper(recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Keeper:
    few = changed(recipe, checkpoints={"num_to_keep": 2})
    nothing: Any = SimpleNamespace()
    store: Any = Store([100, 200, 300])
    aside: Any = Aside()
    monkeypatch.setattr(Keeper, "_keep_best", lambda self, best: None)
    return Keeper(few, store, tmp_path / "model", nothing, aside)


def test_a_model_that_is_judged_while_a_later_one_is_written_is_kept(keeper: Keeper):
    when_300_was_taken = State(step=300, grades=(Grade(step=0, wer=1.0, cer=1.0),))
    assert list(keeper.judged()) == [Judgement(BEST, (), "he", 1.0)]
    assert keeper.aside is not None and not keeper.aside.steps
    keeper._tidy(when_300_was_taken)  # the end of the writing
    assert keeper.store.steps() == [100, 200, 300]


def test_a_model_that_waits_for_its_grade_is_kept(keeper: Keeper):
    keeper._tidy(State(step=300))
    assert keeper.store.steps() == [100, 200, 300]


def test_a_model_that_is_worse_and_old_is_not_kept(keeper: Keeper):
    assert list(keeper.judged())
    keeper._tidy(State(step=300, grades=(Grade(step=200, wer=0.05, cer=0.05),)))
    assert keeper.store.steps() == [200, 300]
