"""Killed whole, as when a machine loses power, and gone on with at another number of workers: exactly once."""

import os
import random
import signal
import threading
import time
from pathlib import Path

import pytest

from caspi.corpus import Corpus
from caspi.errors import TrainingError
from caspi.recipe import Recipe, show
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
    workers,
)

pytestmark = pytest.mark.timeout(1200)  # whole commands, several in a test, on machines that may be busy


def recipe_file(folder: Path, recipe: Recipe, **training: object) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(show(resumable(recipe, **training)), encoding="utf-8")
    return path


def resumable(recipe: Recipe, **training: object) -> Recipe:
    # Half a core each: four workers fit on two.
    halves, together = {"cpus_per_worker": 0.5}, {"aside": "never"}
    return changed(recipe, workers=halves, validation=together, checkpoints={"every_steps": 4}, **training)


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
    recipe: Recipe, corpus: Corpus, uri: str, ray_2_cpus: None, tmp_path: Path
):
    plan = resumable(recipe)
    train(changed(plan, workers={"num_workers": 1}), corpus=corpus.path, output=tmp_path / "undisturbed")
    output = tmp_path / "run"
    for number, more, resume in ((2, 6, False), (1, 5, True)):
        thread = threading.Thread(target=kill_a_worker, args=(output, more))
        thread.start()
        with pytest.raises(TrainingError):
            fragile = changed(plan, workers={"num_workers": number, "max_failures": 0})
            train(fragile, corpus=corpus.path, output=output, resume=resume)
        thread.join()
    train(changed(plan, workers={"num_workers": 4}), corpus=corpus.path, output=output, resume=True)
    assert [line["text"][-9:] for line in lines(output, "resumed")] == ["1 workers", "4 workers"]
    assert steps(output) == steps(tmp_path / "undisturbed")
    assert_each_utterance_once(output, corpus, recipe.training.epochs)
    assert difference(output, tmp_path / "undisturbed") < 1e-5


def kill_a_worker(output: Path, more: int) -> None:
    """kill -9 of a training worker below this process, after `more` new steps."""
    before = len(steps(output))
    wait_for(lambda: len(steps(output)) >= before + more)
    os.kill(workers(os.getpid())[-1], signal.SIGKILL)


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
