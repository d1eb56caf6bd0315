"""Which models there are, and which one is in use."""

import shutil
from pathlib import Path

import pytest

from caspi.corpus.format import Corpus
from caspi.errors import ModelError, TrackingError
from caspi.recipe import Recipe
from caspi.tracking import locate_model, log_model_files, promote, register, resolve, server, set_alias, start_run
from caspi.tracking.client import client
from tests.tracking.conftest import write_model


def test_what_was_uploaded_comes_back_the_same(mlflow_uri: str, recipe: Recipe, corpus: Corpus, model_folder: Path):
    run_id = start_run(recipe, corpus, uri=mlflow_uri)
    log_model_files(mlflow_uri, run_id, model_folder)
    version = register(mlflow_uri, "he-roundtrip", run_id)
    set_alias(mlflow_uri, "he-roundtrip", "champion", version)
    for name in (f"runs:/{run_id}/model", "models:/he-roundtrip/1", "models:/he-roundtrip@champion"):
        found = resolve(name, uri=mlflow_uri)
        for path in model_folder.rglob("*.*"):
            assert (found / path.relative_to(model_folder)).read_bytes() == path.read_bytes()


def test_a_model_is_downloaded_once_and_again_when_a_file_is_gone(mlflow_uri: str, model_folder: Path):
    promote(model_folder, "he-cache", uri=mlflow_uri)
    first = resolve("models:/he-cache/1", uri=mlflow_uri)
    (first / "witness").touch()
    assert (resolve("models:/he-cache@champion", uri=mlflow_uri) / "witness").exists()
    (first / "model.safetensors").unlink()
    again = resolve("models:/he-cache/1", uri=mlflow_uri)
    assert again == first
    assert (again / "model.safetensors").read_bytes() == (model_folder / "model.safetensors").read_bytes()


def test_files_that_changed_in_the_store_are_not_used(mlflow_uri: str, model_folder: Path, tmp_path: Path):
    promote(model_folder, "he-tampered", uri=mlflow_uri)
    other = write_model(tmp_path / "other", weight=2.0)
    with client(mlflow_uri) as mlflow:
        run_id = mlflow.get_model_version("he-tampered", "1").run_id
        mlflow.log_artifact(run_id, str(other / "model.safetensors"), "model")
    with pytest.raises(ModelError, match=r"model\.safetensors arrived .* another hash"):
        resolve("models:/he-tampered/1", uri=mlflow_uri)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: shutil.rmtree(folder), "no such folder"),
        (lambda folder: (folder / "config.json").unlink(), "no readable config.json"),
        (lambda folder: (folder / "config.json").write_text('{"model_type": "whisper"}'), "'whisper'"),
        (lambda folder: (folder / "tokenizer_config.json").unlink(), "no tokenizer_config.json"),
        (lambda folder: (folder / "model.safetensors").rename(folder / "pytorch_model.bin"), r"no \*\.safetensors"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"PK\3\4 a zip"), "not readable as safetensors"),
        (lambda folder: _cut(folder / "model.safetensors"), "not complete"),
    ],
)
def test_a_folder_that_is_not_a_model_is_refused_before_anything_is_registered(
    mlflow_uri: str, model_folder: Path, spoil, message: str
):
    spoil(model_folder)
    with pytest.raises(ModelError, match=message):
        promote(model_folder, "he-refused", uri=mlflow_uri)
    with pytest.raises(ModelError, match="no such model"):
        resolve("models:/he-refused/1", uri=mlflow_uri)


def test_pickles_are_not_uploaded(mlflow_uri: str, recipe: Recipe, corpus: Corpus, model_folder: Path):
    (model_folder / "training_args.bin").write_bytes(b"pickle")
    run_id = start_run(recipe, corpus, uri=mlflow_uri)
    log_model_files(mlflow_uri, run_id, model_folder)
    assert not (resolve(f"runs:/{run_id}/model", uri=mlflow_uri) / "training_args.bin").exists()


@pytest.mark.parametrize("name", ["models:/nobody@champion", "models:/nobody/1", "models:/nobody", "runs:/nothing"])
def test_a_name_that_means_nothing_is_an_error_that_says_so(mlflow_uri: str, name: str):
    with pytest.raises(ModelError, match=name):
        resolve(name, uri=mlflow_uri)


def test_an_unknown_run_is_an_error_of_ours(mlflow_uri: str):
    with pytest.raises((ModelError, TrackingError)):
        resolve("runs:/0123456789abcdef0123456789abcdef/model", uri=mlflow_uri)


def test_locating_goes_to_the_server_for_uris_only(mlflow_uri: str, model_folder: Path):
    promote(model_folder, "he-located", uri=mlflow_uri)
    assert locate_model("Qwen/Qwen3-ASR-1.7B-hf") == "Qwen/Qwen3-ASR-1.7B-hf"
    assert locate_model(str(model_folder)) == str(model_folder)
    with server(mlflow_uri):
        assert Path(locate_model("models:/he-located@champion"), "config.json").is_file()


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-4])
