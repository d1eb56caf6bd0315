"""What MLflow knows of a run."""

import json
import os
import platform
from pathlib import Path

import pytest
import yaml

from caspi.corpus.format import Corpus
from caspi.errors import RunError, TrackingError
from caspi.recipe import Recipe, parse_recipe
from caspi.tracking import finish_run, log_model_files, register, resume_run, start_run
from caspi.tracking.client import client
from caspi.tracking.model_files import read_model_files
from caspi.tracking.run import flatten


def test_a_run_holds_everything_that_it_depends_on(mlflow_uri: str, recipe: Recipe, corpus: Corpus, tmp_path: Path):
    run_id = start_run(recipe, corpus, uri=mlflow_uri)
    with client(mlflow_uri) as mlflow:
        run = mlflow.get_run(run_id)
        stored = Path(mlflow.download_artifacts(run_id, "", str(tmp_path)))
    assert run.info.status == "RUNNING"
    assert run.data.params["training.epochs"] == "7"
    assert run.data.params["data.sources.0.path"] == "/speech.jsonl"
    assert run.data.tags["caspi.corpus_fingerprint"] == corpus.fingerprint
    assert run.data.tags["caspi.version"]
    assert run.data.tags["caspi.python"] == platform.python_version()
    assert run.data.tags["caspi.command"]
    assert run.data.tags["caspi.cpus"].startswith(f"{os.cpu_count()} x ")
    assert run.data.tags["caspi.parent_model"] == "toy"
    assert parse_recipe(yaml.safe_load((stored / "recipe.yaml").read_text())) == recipe
    assert json.loads((stored / "manifest.json").read_text()) == corpus.manifest
    assert "\nmlflow==" in (stored / "packages.txt").read_text()


def test_a_run_says_which_registered_model_it_starts_from(
    mlflow_uri: str, recipe: Recipe, corpus: Corpus, model_folder: Path, tmp_path: Path
):
    parent_run = start_run(recipe, corpus, uri=mlflow_uri)
    digest = log_model_files(mlflow_uri, parent_run, model_folder)
    register(mlflow_uri, "he-parent", parent_run)
    run_id = start_run(starting_from(recipe, "models:/he-parent/1"), corpus, uri=mlflow_uri)
    with client(mlflow_uri) as mlflow:
        tags = mlflow.get_run(run_id).data.tags
        stored = Path(mlflow.download_artifacts(run_id, "parent_model.json", str(tmp_path)))
    assert tags["caspi.parent_model"] == "models:/he-parent/1"
    assert (tags["caspi.parent_digest"], tags["caspi.parent_run"]) == (digest, parent_run)
    assert "model.safetensors" in json.loads(stored.read_text())["files"]


def test_a_run_says_which_folder_it_starts_from(mlflow_uri: str, recipe: Recipe, corpus: Corpus, model_folder: Path):
    run_id = start_run(starting_from(recipe, str(model_folder)), corpus, uri=mlflow_uri)
    with client(mlflow_uri) as mlflow:
        tags = mlflow.get_run(run_id).data.tags
    assert tags["caspi.parent_model"] == str(model_folder)
    assert tags["caspi.parent_digest"] == read_model_files(model_folder).digest
    assert "caspi.parent_run" not in tags


def test_a_run_that_somebody_deleted_is_not_resumed(mlflow_uri: str, recipe: Recipe, corpus: Corpus):
    run_id = start_run(recipe, corpus, uri=mlflow_uri)
    with client(mlflow_uri) as mlflow:
        mlflow.delete_run(run_id)
    with pytest.raises(RunError, match=f"mlflow runs restore --run-id {run_id}"):
        resume_run(mlflow_uri, run_id)
    with client(mlflow_uri) as mlflow:
        mlflow.restore_run(run_id)
    resume_run(mlflow_uri, run_id)
    assert _status(mlflow_uri, run_id) == "RUNNING"


def test_a_run_of_another_server_is_not_resumed(mlflow_uri: str):
    with pytest.raises(RunError, match=r"does not know run 0123.*MLFLOW_TRACKING_URI"):
        resume_run(mlflow_uri, "0123456789abcdef0123456789abcdef")


def test_resuming_without_a_server_is_another_error(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(TrackingError, match=r"127\.0\.0\.1:9"):
        resume_run("http://127.0.0.1:9", "0123456789abcdef0123456789abcdef")


def test_a_run_ends_resumes_and_ends_again(
    mlflow_uri: str, recipe: Recipe, corpus: Corpus, capfd: pytest.CaptureFixture
):
    run_id = start_run(recipe, corpus, uri=mlflow_uri)
    finish_run(mlflow_uri, run_id, "FAILED")
    resume_run(mlflow_uri, run_id)
    assert _status(mlflow_uri, run_id) == "RUNNING"
    for _ in range(2):
        finish_run(mlflow_uri, run_id)
        assert _status(mlflow_uri, run_id) == "FINISHED"
    assert capfd.readouterr() == ("", "")


def test_an_unknown_run_is_an_error_of_ours(mlflow_uri: str):
    with pytest.raises(TrackingError, match="nowhere"):
        finish_run(mlflow_uri, "nowhere")


def test_nested_values_get_dotted_keys_and_plain_lists_stay_whole():
    values = {"a": {"b": 1, "c": []}, "d": [{"e": 2}, {"e": None}], "f": [0.9, 0.98]}
    assert dict(flatten(values)) == {"a.b": "1", "a.c": "[]", "d.0.e": "2", "d.1.e": "None", "f": "[0.9, 0.98]"}


def starting_from(recipe: Recipe, init: str) -> Recipe:
    return recipe.model_copy(update={"model": recipe.model.model_copy(update={"init": init})})


def _status(uri: str, run_id: str) -> str:
    with client(uri) as mlflow:
        return mlflow.get_run(run_id).info.status
