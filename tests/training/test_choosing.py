"""Which model a run ends with: judged aside or by the workers, stopped by patience, averaged if that is better."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from caspi.corpus import Corpus
from caspi.recipe import Recipe
from caspi.training import train
from caspi.training.averaging import average
from caspi.training.checkpoint import read_state
from tests.training.whole_runs import changed, difference, lines, newest, steps

pytestmark = pytest.mark.timeout(280)


def test_models_judged_aside_get_the_grades_that_the_workers_give(
    recipe: Recipe, corpus: Corpus, uri: str, ray_2_cpus: None, tmp_path: Path
):
    grades = {}
    for aside in ("never", "always"):
        one = changed(recipe, epochs=2, workers={"num_workers": 1}, validation={"aside": aside})
        train(one, corpus=corpus.path, output=tmp_path / aside)
        judged = lines(tmp_path / aside, "validation")
        grades[aside] = {line["step"]: (line["eval/wer"], line["eval/cer"]) for line in judged}
        best = min(grades[aside].values())
        kept = load_file(tmp_path / aside / "model" / "model.safetensors")
        end = load_file(newest(tmp_path / aside) / "model" / "model.safetensors")
        assert all(torch.equal(kept[name], end[name]) for name in kept) == (grades[aside][max(grades[aside])] == best)
    assert len(grades["never"]) == 3
    assert grades["always"] == grades["never"]
    assert difference(tmp_path / "always", tmp_path / "never") == 0.0


def test_a_run_that_does_not_get_better_ends_by_patience_with_the_best_model(
    recipe: Recipe, corpus: Corpus, uri: str, ray_2_cpus: None, tmp_path: Path
):
    """It learns nothing: no model is better than the one before the first step."""
    settings = {"every_steps": 2, "patience": 2}
    idle = changed(recipe, epochs=30, optimizer={"learning_rate": 1e-12}, validation=settings)
    result = train(idle, corpus=corpus.path, output=tmp_path / "run")
    judged = lines(tmp_path / "run", "validation")
    assert {line["eval/wer"] for line in judged} == {result.best_wer}
    assert [line["step"] for line in judged] == [0, 2, 4]
    assert steps(tmp_path / "run")[-1] == 5, "the wish to stop travels with the step after"


def test_an_average_is_the_mean_of_the_weights(tmp_path: Path):
    for number in (1.0, 2.0, 6.0):
        save_file({"a": torch.full((2,), number), "b": torch.zeros(1)}, tmp_path / f"{number}.safetensors")
    mean = average(sorted(tmp_path.glob("*.safetensors")))
    assert mean["a"].tolist() == [3.0, 3.0]
    assert mean["b"].dtype == torch.float32


def test_the_average_is_kept_only_if_it_is_better(
    recipe: Recipe, corpus: Corpus, uri: str, ray_2_cpus: None, tmp_path: Path
):
    settings = {"every_steps": 3, "average_best": 3}
    output = tmp_path / "run"
    train(changed(recipe, validation=settings), corpus=corpus.path, output=output)
    (averaged,) = lines(output, "average")
    best = min((line["eval/wer"], line["eval/cer"]) for line in lines(output, "validation"))
    kept = load_file(output / "model" / "model.safetensors")
    state = read_state(newest(output))
    files = [
        output / "checkpoints" / f"checkpoint-{grade.step:06d}" / "model" / "model.safetensors"
        for grade in state.best[:3]
    ]
    assert all(file.exists() for file in files), "the best three are kept to the end"
    expected = average(files) if (averaged["eval/wer"], averaged["eval/cer"]) < best else load_file(files[0])
    for name, weight in kept.items():
        torch.testing.assert_close(weight, expected[name], atol=1e-7, rtol=0)
