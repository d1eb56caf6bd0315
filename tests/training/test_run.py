"""Whole runs on Ray Train with a real MLflow server: what they leave behind, and what killing a worker changes."""

from pathlib import Path

import pytest
from safetensors.torch import load_file

from caspi.corpus import Corpus
from caspi.errors import CorpusError, RequestError, RunError
from caspi.recipe import Recipe, load_recipe
from caspi.training import TrainResult, train
from caspi.training.checkpoint import read_state
from tests.training.whole_runs import (
    assert_each_utterance_once,
    changed,
    difference,
    lines,
    newest,
    steps,
    weights,
    worker_killed_after_a_checkpoint,
)

pytestmark = pytest.mark.timeout(280)


@pytest.fixture(scope="module")
def finished(
    recipe: Recipe, corpus: Corpus, uri: str, ray_2_cpus: None, tmp_path_factory: pytest.TempPathFactory
) -> tuple[TrainResult, Path]:
    """An undisturbed run on two workers."""
    output = tmp_path_factory.mktemp("finished") / "run"
    return train(recipe, corpus=corpus.path, output=output), output


def test_a_run_leaves_a_model_a_recipe_and_curves(finished, corpus: Corpus, uri: str):
    from mlflow import MlflowClient

    result, output = finished
    assert result.loss_last < result.loss_first
    assert (result.model / "model.safetensors").is_file()
    load_recipe(output / "recipe.yaml")
    assert steps(output) == list(range(1, steps(output)[-1] + 1))

    client = MlflowClient(uri)
    run = client.get_run(result.run_id)
    assert run.info.status == "FINISHED"
    assert corpus.fingerprint in run.data.tags.values()
    loss = client.get_metric_history(result.run_id, "train/loss")
    assert [point.step for point in loss] == steps(output)
    assert client.get_metric_history(result.run_id, "eval/wer")
    artifacts = {file.path for file in client.list_artifacts(result.run_id, "model")}
    assert "model/model.safetensors" in artifacts


def test_bucketed_a_run_ends_where_packed_it_does(finished, recipe: Recipe, corpus: Corpus, uri: str, tmp_path: Path):
    """Utterances are dealt to workers otherwise, and are padded: the same steps, losses and weights."""
    output = tmp_path / "run"
    train(changed(recipe, batches={"collation": "bucketed"}), corpus=corpus.path, output=output)
    assert difference(output, finished[1]) < 2e-4
    ours, theirs = ([line["train/loss"] for line in lines(folder)] for folder in (output, finished[1]))
    assert ours == pytest.approx(theirs, abs=1e-4)
    assert_each_utterance_once(output, corpus, 3)
    assert all(line["data/packing_efficiency"] < 1 for line in lines(output))
    assert {line["data/packing_efficiency"] for line in lines(finished[1])} == {1.0}


def test_a_worker_killed_in_mid_run_changes_nothing(finished, recipe: Recipe, corpus: Corpus, uri: str, tmp_path: Path):
    """kill -9 after a checkpoint: the run goes on from there and ends with the same weights, to the bit."""
    output = tmp_path / "run"
    with worker_killed_after_a_checkpoint(output):
        train(recipe, corpus=corpus.path, output=output)
    (resumed,) = lines(output, "resumed")  # or the run was over before a worker could be killed
    assert resumed["text"].endswith("on 2 workers")
    assert steps(output) == steps(finished[1])
    assert difference(output, finished[1]) == 0.0


def test_each_epoch_sees_each_utterance_once(finished, corpus: Corpus):
    assert_each_utterance_once(finished[1], corpus, 3)


def test_a_run_folder_is_not_used_twice_by_mistake(finished, recipe: Recipe, corpus: Corpus):
    with pytest.raises(RunError, match="--resume"):
        train(recipe, corpus=corpus.path, output=finished[1])


def test_resume_needs_something_to_resume(recipe: Recipe, corpus: Corpus, tmp_path: Path):
    with pytest.raises(RunError, match="no run to resume"):
        train(recipe, corpus=corpus.path, output=tmp_path / "run", resume=True)


def test_a_mixture_that_does_not_fit_the_corpus_is_refused_before_a_run_begins(
    recipe: Recipe, corpus: Corpus, uri: str, tmp_path: Path
):
    odd = changed(recipe, mixture={"weights": {"nowhere": 2}})
    with pytest.raises(RequestError, match=r"training\.mixture\.weights\.nowhere: no such source"):
        train(odd, corpus=corpus.path, output=tmp_path / "run")
    assert not (tmp_path / "run" / "run.json").exists()


def test_a_corpus_without_a_training_split_is_refused(recipe: Recipe, corpus: Corpus, tmp_path: Path):
    with pytest.raises(CorpusError):
        train(recipe, corpus=tmp_path, output=tmp_path / "run")


def test_the_best_model_by_wer_is_kept_and_not_the_last(finished):
    _, output = finished
    judged = lines(output, "validation")
    errors = [(line["eval/wer"], line["eval/cer"]) for line in judged]
    assert [line["step"] for line in judged] == [0, *(len(steps(output)) * epoch // 3 for epoch in (1, 2, 3))]
    assert read_state(newest(output)).best[0].wer == min(errors)[0]
    best, last = load_file(output / "model" / "model.safetensors"), weights(output)
    is_last = all(bool((best[name] == last[name]).all()) for name in best)
    # Of equals the later one is kept.
    assert is_last == (errors[-1] == min(errors))


def test_more_workers_than_this_machine_has_are_refused_at_once(
    recipe: Recipe, corpus: Corpus, uri: str, tmp_path: Path
):
    many = changed(recipe, workers={"num_workers": 64})
    with pytest.raises(RequestError, match="asks for 64 CPUs"):
        train(many, corpus=corpus.path, output=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_every_checkpoint_says_where_it_is(finished):
    _, output = finished
    assert read_state(newest(output)).step == steps(output)[-1]
