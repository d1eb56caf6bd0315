"""What MLflow knows of a preparation."""

import json
import logging
import sys
from pathlib import Path
from typing import Any

import pytest

from caspi.corpus.format import Corpus
from caspi.recipe import Recipe
from caspi.tracking import log_preparation, record_preparation
from caspi.tracking.client import client


@pytest.fixture
def prepared(tmp_path: Path) -> Corpus:
    """The files beside the shards of a small corpus."""
    folder = tmp_path / "corpus"
    folder.mkdir()
    (folder / "report.html").write_text("<!doctype html><p>the report")
    (folder / "prepare.json").write_text('{"seconds": 20.0, "hours": 1.5, "hours_reused": 0.0, "rtfx": 270.0}')
    counts = {"num_utterances": 3, "hours": 1.5}
    manifest: dict[str, Any] = {
        **counts,
        "fingerprint": "f" * 16,
        "num_recordings": 5,
        "num_recordings_rejected": 2,
        "rejected_by_reason": {"too_short": 1, "a flag, as שמו": 1},
        "splits": {"train": counts, "validation": {"num_utterances": 0, "hours": 0.0}},
        "statistics": {"quantities": {"snr_db": {"quantiles": {"p50": 21.5}}}},
    }
    return Corpus(folder, manifest)


def test_a_preparation_is_a_finished_run_with_its_numbers_and_its_page(
    mlflow_uri: str, recipe: Recipe, prepared: Corpus, tmp_path: Path
):
    run_id = log_preparation(recipe, prepared, uri=mlflow_uri)
    with client(mlflow_uri) as mlflow:
        run = mlflow.get_run(run_id)
        stored = Path(mlflow.download_artifacts(run_id, "", str(tmp_path)))
    assert run.info.status == "FINISHED"
    assert (run.data.tags["caspi.stage"], run.data.tags["caspi.corpus_fingerprint"]) == ("prepare", "f" * 16)
    assert run.data.tags["caspi.version"]
    assert run.data.params["data.sources.0.path"] == "/speech.jsonl"
    expected = {"data/hours": 1.5, "data/hours_train": 1.5, "data/num_recordings_rejected": 2, "data/rtfx": 270.0}
    expected |= {"data/median_snr_db": 21.5, "data/rejected_too_short": 1, "data/rejected_a flag_ as שמו": 1}
    assert expected.items() <= run.data.metrics.items()
    assert (stored / "report.html").read_bytes() == (prepared.path / "report.html").read_bytes()
    assert json.loads((stored / "manifest.json").read_text()) == prepared.manifest
    assert {"recipe.yaml", "packages.txt"} <= {path.name for path in stored.iterdir()}


def test_a_corpus_that_lost_its_timing_is_logged_without(mlflow_uri: str, recipe: Recipe, prepared: Corpus):
    (prepared.path / "prepare.json").unlink()
    with client(mlflow_uri) as mlflow:
        metrics = mlflow.get_run(log_preparation(recipe, prepared, uri=mlflow_uri)).data.metrics
    assert "data/hours" in metrics
    assert "data/rtfx" not in metrics


def test_no_server_is_started_for_it(recipe: Recipe, prepared: Corpus, home: Path):
    assert record_preparation(recipe, prepared) is None
    assert not home.exists()


def test_a_configured_server_gets_it(
    mlflow_uri: str, recipe: Recipe, prepared: Corpus, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_uri)
    run_id = record_preparation(recipe, prepared)
    with client(mlflow_uri) as mlflow:
        assert mlflow.get_run(run_id).data.metrics["data/hours"] == 1.5


@pytest.mark.parametrize("uri", ["http://127.0.0.1:9", "sqlite:///somewhere.db"])
def test_a_server_that_does_not_answer_is_only_a_warning(
    uri: str, recipe: Recipe, prepared: Corpus, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setattr(sys.modules["caspi.tracking.server"], "ANSWER_TIMEOUT_S", 0.0)
    with caplog.at_level(logging.WARNING, "caspi"):
        assert record_preparation(recipe, prepared) is None
    assert "the corpus is complete" in caplog.text
    assert uri in caplog.text
