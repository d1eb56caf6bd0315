"""A real MLflow server for the tests of this folder, and small things to put into it."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from caspi.corpus.format import Corpus
from caspi.recipe import Recipe, parse_recipe
from caspi.tracking import server
from caspi.tracking.client import client


@pytest.fixture(scope="session")
def mlflow_uri(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of an embedded server that the whole session shares. The environment is left alone."""
    patch = pytest.MonkeyPatch()
    patch.delenv("MLFLOW_TRACKING_URI", raising=False)
    patch.setenv("CASPI_HOME", str(tmp_path_factory.mktemp("home")))
    with server() as uri:
        patch.delenv("MLFLOW_TRACKING_URI")
        yield uri
    patch.undo()


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home of its own for each test, and no server configured from outside."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("CASPI_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def recipe() -> Recipe:
    return parse_recipe(
        {"name": "small", "data": {"sources": [{"kind": "jsonl", "path": "/speech.jsonl"}]}, "training": {"epochs": 7}}
    )


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    return Corpus(tmp_path, {"schema_version": 1, "fingerprint": "f" * 16, "num_utterances": 3})


@pytest.fixture
def model_folder(tmp_path: Path) -> Path:
    return write_model(tmp_path / "run" / "model")


def write_model(folder: Path, *, weight: float = 1.0) -> Path:
    """The files of a native model, with one weight."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"model_type": "qwen3_asr"}))
    (folder / "tokenizer_config.json").write_text("{}")
    (folder / "chat").mkdir()
    (folder / "chat" / "template.jinja").write_text("{{ messages }}")
    save_file({"weight": np.full(8, weight, np.float32)}, folder / "model.safetensors")
    return folder


@pytest.fixture
def run_id(mlflow_uri: str) -> str:
    return new_run(mlflow_uri)


def new_run(uri: str) -> str:
    with client(uri) as mlflow:
        return mlflow.create_run("0").info.run_id


def curve(uri: str, run_id: str, key: str) -> list[tuple[int, float]]:
    """(step, value) of every stored point, doubled ones included."""
    with client(uri) as mlflow:
        return sorted((point.step, point.value) for point in mlflow.get_metric_history(run_id, key))
