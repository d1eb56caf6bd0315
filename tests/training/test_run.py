"""Whole runs on Ray Train with a real MLflow server: what they leave behind, and what killing a worker changes."""

import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from safetensors.torch import load_file

from caspi import tracking
from caspi.corpus import Corpus
from caspi.errors import CorpusError, RequestError, RunError
from caspi.memory import descendants
from caspi.recipe import Recipe, load_recipe, parse_recipe
from caspi.training import TrainResult, progress, train
from caspi.training.checkpoint import Cursor

pytestmark = pytest.mark.timeout(280)


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """One MLflow server for all runs of this file."""
    before = os.environ.get("CASPI_HOME")
    os.environ["CASPI_HOME"] = str(tmp_path_factory.mktemp("home"))
    with tracking.server() as address:
        yield address
    if before is None:
        del os.environ["CASPI_HOME"]
    else:
        os.environ["CASPI_HOME"] = before


def changed(recipe: Recipe, **training: object) -> Recipe:
    values = recipe.model_dump(mode="json")
    values["training"] |= training
    return parse_recipe(values)


@pytest.fixture(scope="module")
def finished(
    recipe: Recipe, corpus: Corpus, uri: str, ray_2_cpus: None, tmp_path_factory: pytest.TempPathFactory
) -> tuple[TrainResult, Path]:
    """An undisturbed run on two workers."""
    output = tmp_path_factory.mktemp("finished") / "run"
    return train(recipe, corpus=corpus.path, output=output), output


def weights(output: Path) -> dict:
    """Those of the newest checkpoint: the end of the run, whichever model was best."""
    newest = max((output / "ray" / "train").glob("checkpoint-*"))
    return load_file(newest / "model" / "model.safetensors")


def steps(output: Path) -> list[int]:
    return [line["step"] for line in progress.read(output / "progress.jsonl") if line["event"] == "step"]


def difference(one: Path, other: Path) -> float:
    ours, theirs = weights(one), weights(other)
    assert ours.keys() == theirs.keys()
    return max(float((ours[name] - theirs[name]).abs().max()) for name in ours)


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


def test_one_worker_ends_where_two_do(finished, recipe: Recipe, corpus: Corpus, uri: str, tmp_path: Path):
    alone = changed(recipe, workers={"num_workers": 1})
    train(alone, corpus=corpus.path, output=tmp_path / "run")
    assert difference(tmp_path / "run", finished[1]) < 2e-4
    ours, theirs = (
        [line["train/loss"] for line in progress.read(folder / "progress.jsonl") if line["event"] == "step"]
        for folder in (tmp_path / "run", finished[1])
    )
    assert ours == pytest.approx(theirs, abs=1e-4)


def test_a_worker_killed_in_mid_run_changes_nothing(finished, recipe: Recipe, corpus: Corpus, uri: str, tmp_path: Path):
    """kill -9 after a checkpoint: the run goes on from there and ends with the same weights, to the bit."""
    output = tmp_path / "run"
    killed: list[int] = []

    def kill_a_worker() -> None:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and not killed:
            if any(line["event"] == "checkpoint" for line in progress.read(output / "progress.jsonl")):
                workers = [
                    process
                    for process in descendants(os.getpid())
                    if b"RayTrainWorker" in Path(f"/proc/{process}/cmdline").read_bytes()
                ]
                os.kill(workers[-1], signal.SIGKILL)
                killed.append(workers[-1])
            time.sleep(0.02)

    # Long enough to be killed in the middle: the same steps, and a checkpoint after each third.
    thread = threading.Thread(target=kill_a_worker)
    thread.start()
    train(recipe, corpus=corpus.path, output=output)
    thread.join()
    assert killed, "the run was over before a worker could be killed"
    assert steps(output) == steps(finished[1])
    assert difference(output, finished[1]) == 0.0


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
    lines = [line for line in progress.read(output / "progress.jsonl") if line["event"] == "validation"]
    errors = [(line["eval/wer"], line["eval/cer"]) for line in lines]
    newest = max((output / "ray" / "train").glob("checkpoint-*"))
    assert len(errors) == 3
    assert json.loads((newest / "cursor.json").read_text())["best_wer"] == min(errors)[0]
    best, last = load_file(output / "model" / "model.safetensors"), weights(output)
    is_last = all(bool((best[name] == last[name]).all()) for name in best)
    # Of equals the later one is kept.
    assert is_last == (errors[-1] == min(errors))


def test_the_best_is_by_wer_then_cer_then_the_later():
    cursor = Cursor(best_wer=0.2, best_cer=0.1)
    assert cursor.is_best(0.1, 0.9)
    assert cursor.is_best(0.2, 0.1)
    assert not cursor.is_best(0.2, 0.11)
    assert not cursor.is_best(0.3, 0.0)
    assert Cursor().is_best(5.0, 5.0)


def test_more_workers_than_this_machine_has_are_refused_at_once(
    recipe: Recipe, corpus: Corpus, uri: str, tmp_path: Path
):
    many = changed(recipe, workers={"num_workers": 64})
    with pytest.raises(RequestError, match="asks for 64 CPUs"):
        train(many, corpus=corpus.path, output=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_every_checkpoint_says_where_it_is(finished):
    _, output = finished
    newest = max((output / "ray" / "train").glob("checkpoint-*"))
    cursor = json.loads((newest / "cursor.json").read_text())
    assert cursor["step"] == steps(output)[-1]
