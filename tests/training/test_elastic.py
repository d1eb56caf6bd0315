"""Machines that are taken away with notice, and machines that come: the run leaves, goes on, and ends the same."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from caspi.corpus import Corpus
from caspi.recipe import Recipe, show
from caspi.training.launch import train
from tests.training.whole_runs import assert_each_utterance_once, changed, difference, lines, steps

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


EPOCHS = 200  # long enough for what happens to happen before the end


def test_a_machine_that_is_taken_away_and_one_that_comes_change_nothing(
    recipe: Recipe, corpus: Corpus, ray_2_cpus: None, tmp_path: Path, monkeypatch
):
    monkeypatch.setenv("CASPI_HOME", str(tmp_path / "home"))
    elastic = {
        "workers": {"num_workers": (1, 2), "resize_every_s": 2},
        "checkpoints": {"every_steps": 25},
        "validation": {"every_steps": 1000, "aside": "never"},
        "epochs": EPOCHS,
    }
    file, output = tmp_path / "recipe.yaml", tmp_path / "run"
    file.write_text(show(changed(recipe, **elastic)), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "tests.training.changing_cluster", file, corpus.path, output],
        env=os.environ | {"RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5", "CASPI_VERBOSE": "1"},
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-8000:]
    assert "groups of [2, 1, 2] workers" in done.stdout
    drained = int(done.stdout.split("drained after step ")[1].split()[0])
    left_at = [line["step"] for line in lines(output, "checkpoint") if line["step"] % 25 and line["step"] > drained]
    assert left_at, "no checkpoint was written when the notice came"

    fixed = changed(recipe, **(elastic | {"workers": {"num_workers": 2}}))
    train(fixed, corpus=corpus.path, output=tmp_path / "undisturbed")
    assert steps(output) == steps(tmp_path / "undisturbed")
    assert_each_utterance_once(output, corpus, EPOCHS)
    assert difference(output, tmp_path / "undisturbed") < 1e-5
