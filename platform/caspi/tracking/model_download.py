"""Models from MLflow on this machine: downloaded once, kept by digest, and checked against the hashes of the upload."""

import shutil
import tempfile
from pathlib import Path
from typing import Any

from caspi import settings
from caspi.errors import ModelError
from caspi.tracking.client import client
from caspi.tracking.model_files import CHECKSUMS, ModelFiles, read_model_files
from caspi.tracking.model_uri import is_uri, run_and_path
from caspi.tracking.server import server


def locate_model(model: str) -> str:
    """A folder, or a Hub id, for whatever MODEL names. `models:/` and `runs:/` are downloaded, the rest stays as it is.

    Raises:
        ModelError: MLflow has no such model.
        TrackingError: the server does not answer.
    """
    if not is_uri(model):
        return model
    with server() as uri:
        return str(resolve(model, uri=uri))


def resolve(model: str, *, uri: str) -> Path:
    """Download what `models:/NAME@alias`, `models:/NAME/VERSION` or `runs:/ID/model` means, unless it is here already.

    Folders are kept under `CASPI_HOME` by digest; every file's hash is checked when it arrives.

    Raises:
        ModelError: MLflow has no such model, or its files are not what was uploaded.
        TrackingError: the server does not answer.
    """
    run_id, path = run_and_path(model, uri)
    files = _checksums(run_id, path, model, uri)
    kept = settings.read().home / "models" / files.digest
    if not _is_complete(kept, files):
        with client(uri) as mlflow:
            _fetch(mlflow, run_id, path, model, files, kept)
    return kept


def uploaded_files(model: str, *, uri: str) -> tuple[str, ModelFiles]:
    """The run that uploaded what `models:/...` or `runs:/...` means, and its files by their hashes then.

    Raises:
        ModelError: MLflow has no such model.
        TrackingError: the server does not answer.
    """
    run_id, path = run_and_path(model, uri)
    return run_id, _checksums(run_id, path, model, uri)


def _checksums(run_id: str, path: str, model: str, uri: str) -> ModelFiles:
    with client(uri) as mlflow, tempfile.TemporaryDirectory() as temporary:
        checksums = _download(mlflow, run_id, f"{path}/{CHECKSUMS}", Path(temporary), model)
        return ModelFiles.from_json(checksums.read_text(encoding="utf-8"))


def _download(mlflow: Any, run_id: str, path: str, into: Path, model: str) -> Path:
    from mlflow.exceptions import MlflowException

    try:
        return Path(mlflow.download_artifacts(run_id, path, str(into)))
    except (MlflowException, OSError) as error:
        raise ModelError(f"{model}: {path} cannot be downloaded from run {run_id}: {error}") from error


def _fetch(mlflow: Any, run_id: str, path: str, model: str, files: ModelFiles, kept: Path) -> None:
    """Download into a neighbour of `kept`, check every hash, and only then give it its name."""
    kept.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=kept.parent, prefix=".incoming-") as temporary:
        folder = _download(mlflow, run_id, path, Path(temporary), model)
        arrived = read_model_files(folder)
        wrong = sorted(name for name in files.sha256 if arrived.sha256.get(name) != files.sha256[name])
        if wrong:
            raise ModelError(
                f"{model}: {', '.join(wrong)} arrived from MLflow with another hash than was uploaded; try again"
            )
        if kept.exists() and not _is_complete(kept, files):
            shutil.rmtree(kept)
        if not kept.exists():
            folder.rename(kept)


def _is_complete(folder: Path, files: ModelFiles) -> bool:
    """Whether every file is here with its size. Hashes were checked before the folder got its name."""
    return all(
        (folder / name).is_file() and (folder / name).stat().st_size == size for name, size in files.size_bytes.items()
    )
