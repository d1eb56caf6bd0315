"""Killed whole, as when a machine loses power, and gone on with at another number of workers: exactly once."""

import random
import time
from pathlib import Path

import pytest

from caspi.corpus import Corpus
from caspi.recipe import Recipe, load_recipe, show
from caspi.training import train
from tests.training.whole_runs import (
    assert_each_utterance_once,
    changed,
    difference,
    kill_whole,
    lines,
    start,
    steps,
    wait_for,
)

pytestmark = pytest.mark.timeout(1200)  # whole commands, several in a test, on machines that may be busy


def recipe_file(folder: Path, recipe: Recipe, **training: object) -> Path:
    # Half a core each: four workers fit on two.
    changes = {"workers": {"cpus_per_worker": 0.5}, "checkpoints": {"every_steps": 4}} | training
    path = folder / "recipe.yaml"
    path.write_text(show(changed(recipe, **changes)), encoding="utf-8")
    return path


def finish(recipe: Path, corpus: Corpus, output: Path, home: Path, *words: str) -> float:
    """Run a command to its end. Returns the seconds it took."""
    began = time.monotonic()
    process = start(recipe, corpus.path, output, home, *words)
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 0, said
    return time.monotonic() - began


def with_workers(number: int) -> tuple[str, str]:
    return "--set", f"training.workers.num_workers={number}"


def kill_after_steps(process, output: Path, more: int, pause_s: float) -> None:
    """kill -9 of everything, `pause_s` after `more` new steps."""
    before = len(steps(output))
    wait_for(lambda: len(steps(output)) >= before + more or process.poll() is not None)
    time.sleep(pause_s)
    kill_whole(process)


def test_killed_at_two_workers_it_goes_on_with_one_and_with_four(
    recipe: Recipe, corpus: Corpus, uri: str, tmp_path: Path
):
    file = recipe_file(tmp_path, recipe)
    train(changed(load_recipe(file), workers={"num_workers": 1}), corpus=corpus.path, output=tmp_path / "undisturbed")
    output = tmp_path / "run"
    kill_after_steps(start(file, corpus.path, output, tmp_path / "home", *with_workers(2)), output, 6, 0.1)
    words = ("--resume", *with_workers(1))
    kill_after_steps(start(file, corpus.path, output, tmp_path / "home", *words), output, 5, 0.05)
    finish(file, corpus, output, tmp_path / "home", "--resume", *with_workers(4))
    assert steps(output) == steps(tmp_path / "undisturbed")
    assert_each_utterance_once(output, corpus, recipe.training.epochs)
    assert difference(output, tmp_path / "undisturbed") < 1e-5


@pytest.mark.slow
@pytest.mark.timeout(2400)
@pytest.mark.parametrize("cycle", [(2,), (2, 1, 4)], ids=["same layout", "other layouts"])
def test_killed_at_ten_random_moments(recipe: Recipe, corpus: Corpus, tmp_path: Path, cycle: tuple[int, ...]):
    random_moments = random.Random(7)
    file = recipe_file(tmp_path, recipe, epochs=12)
    finish(file, corpus, tmp_path / "undisturbed", tmp_path / "home", *with_workers(2))
    output, kills = tmp_path / "run", 0
    while True:
        words = with_workers(cycle[kills % len(cycle)])
        process = start(file, corpus.path, output, tmp_path / "home", *words, *(["--resume"] if kills else []))
        if kills == 10:
            said, _ = process.communicate(timeout=300)
            assert process.returncode == 0, said
            break
        kill_after_steps(process, output, random_moments.randint(1, 6), random_moments.uniform(0, 0.5))
        kills += 1
    assert steps(output) == steps(tmp_path / "undisturbed")
    assert_each_utterance_once(output, corpus, 12)
    worst = difference(output, tmp_path / "undisturbed")
    assert worst == 0.0 if cycle == (2,) else worst < 1e-5
    assert lines(output, "checkpoint")
