"""What MLflow knows of a run."""

import json
from pathlib import Path

import pytest
import yaml

from caspi.corpus.format import Corpus
from caspi.errors import TrackingError
from caspi.recipe import Recipe, parse_recipe
from caspi.tracking import finish_run, resume_run, start_run
from caspi.tracking.client import client
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
    assert parse_recipe(yaml.safe_load((stored / "recipe.yaml").read_text())) == recipe
    assert json.loads((stored / "manifest.json").read_text()) == corpus.manifest
    assert "\nmlflow==" in (stored / "packages.txt").read_text()


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


def _status(uri: str, run_id: str) -> str:
    with client(uri) as mlflow:
        return mlflow.get_run(run_id).info.status
