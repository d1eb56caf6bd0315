"""The registry: which models there are, what they came from, and which one is in use."""

import re
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from caspi.errors import ModelError, TrackingError
from caspi.tracking.client import client
from caspi.tracking.model_files import CHECKSUMS, read_model_files
from caspi.tracking.model_uri import MODEL_ARTIFACT

CANDIDATE = "candidate"
CHAMPION = "champion"

DIGEST_TAG = "caspi.model_digest"
_HISTORY_TAG = "caspi.history_of_{alias}"  # of the registered model: the versions that an alias meant, in order
_MAX_HISTORY = 100

# MLflow's rules, and no quotation mark, which breaks the conditions of its searches.
_NAME = re.compile(r"[^'/:]*[^'/:\s][^'/:]*")
_ALIAS = re.compile(r"(?!(latest|[vV]\d+)$)[\w-]+")


def log_model_files(uri: str, run_id: str, folder: str | Path) -> str:
    """Upload a model folder as the run's artifact `model/`, with checksums beside it. Returns its digest.

    Raises:
        ModelError: the folder is not a model.
        TrackingError: the server does not answer, or stored something else than we sent.
    """
    folder = Path(folder)
    files = read_model_files(folder)
    with client(uri) as mlflow:
        for name in files.sha256:
            parent = Path(name).parent.as_posix()
            mlflow.log_artifact(run_id, str(folder / name), f"{MODEL_ARTIFACT}/{parent}".removesuffix("/."))
        mlflow.log_text(run_id, files.to_json(), f"{MODEL_ARTIFACT}/{CHECKSUMS}")
        stored = _stored_sizes(mlflow, run_id, MODEL_ARTIFACT)
        wrong = [name for name, size in files.size_bytes.items() if stored.get(name) != size]
        if wrong:
            raise TrackingError(
                f"MLflow at {uri}: run {run_id} holds other sizes than were sent of {', '.join(wrong)}; try again"
            )
        mlflow.set_tag(run_id, DIGEST_TAG, files.digest)
    return files.digest


def register(uri: str, name: str, run_id: str, *, tags: Mapping[str, str] | None = None) -> int:
    """Register the model that a run uploaded, as the next version of `name`. Returns the version.

    Raises:
        ModelError: the run holds no model.
        TrackingError: the server does not answer, or refuses the name.
    """
    with client(uri) as mlflow:
        from mlflow.exceptions import MlflowException

        run = mlflow.get_run(run_id)
        digest = run.data.tags.get(DIGEST_TAG)
        if digest is None:
            raise ModelError(f"runs:/{run_id}/{MODEL_ARTIFACT}: the run holds no model that Caspi uploaded")
        try:
            mlflow.create_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        lineage = {
            key: value
            for key, value in run.data.tags.items()
            if key.startswith("caspi.") or key == "mlflow.source.git.commit"
        }
        version = mlflow.create_model_version(
            name, f"{run.info.artifact_uri}/{MODEL_ARTIFACT}", run_id=run_id, tags={**lineage, **(tags or {})}
        )
    return int(version.version)


def version_at(uri: str, name: str, alias: str) -> int | None:
    """The version that `models:/NAME@alias` means now; None where nothing does.

    Raises:
        TrackingError: the server does not answer.
    """
    with client(uri) as mlflow:
        from mlflow.exceptions import MlflowException

        try:
            return int(mlflow.get_model_version_by_alias(name, alias).version)
        except MlflowException as error:
            if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                raise
            return None


def set_alias(uri: str, name: str, alias: str, version: int) -> None:
    """Let `models:/NAME@alias` mean this version, and remember it for `rollback`.

    Raises:
        TrackingError: the server does not answer, or knows no such version.
    """
    with client(uri) as mlflow:
        # First the alias: whoever is killed here leaves a history that ends with the version before, which is true.
        mlflow.set_registered_model_alias(name, alias, str(version))
        history = _history(mlflow, name, alias)
        if history[-1:] != [version]:
            _remember(mlflow, name, alias, [*history, version])


def rollback(name: str, *, alias: str = CHAMPION, uri: str) -> tuple[int, int]:
    """Let `models:/NAME@alias` mean the version again that it meant before. Returns the version left, and that one.

    Raises:
        ModelError: it means no version, or has never meant another one that is still there.
        TrackingError: the server does not answer.
    """
    check_name(name, alias)
    current = version_at(uri, name, alias)
    if current is None:
        raise ModelError(f"models:/{name}@{alias}: MLflow at {uri} has no such model; `caspi promote` registers one")
    with client(uri) as mlflow:
        kept = {int(each.version) for each in mlflow.search_model_versions(f"name = '{name}'")}
        before = _before(_history(mlflow, name, alias), current, kept)
        if not before:
            raise ModelError(
                f"models:/{name}@{alias} is version {current} and was no other before that is still registered; "
                "there is nothing to go back to"
            )
        # First the history: whoever is killed here has gone nowhere yet, and the next rollback goes the same way.
        _remember(mlflow, name, alias, before)
        mlflow.set_registered_model_alias(name, alias, str(before[-1]))
        mlflow.set_model_version_tag(
            name, str(current), "caspi.rolled_back", datetime.now(UTC).isoformat("T", "seconds")
        )
    return current, before[-1]


def check_name(name: str, alias: str) -> None:
    """Make sure that a registered model and its alias can be called so.

    Raises:
        ModelError: they cannot.
    """
    if not _NAME.fullmatch(name):
        raise ModelError(f"{name!r} cannot be a model's name; expected one without quotation marks, slashes and colons")
    if not _ALIAS.fullmatch(alias):
        raise ModelError(
            f"{alias!r} cannot be an alias; expected letters, digits, - and _, and neither `latest` nor one like `v1`"
        )


def _before(history: list[int], current: int, kept: Collection[int]) -> list[int]:
    """What an alias meant before it came to mean `current`, as far as that is kept.

    What comes after `current` was left by a rollback, one that was killed or somebody's in MLflow's own pages. Of an
    alias that was set by a promotion that was killed, the history knows nothing yet.
    """
    if current in history:
        history = history[: len(history) - 1 - history[::-1].index(current)]
    before = [version for version in history if version in kept]
    while before[-1:] == [current]:
        before.pop()
    return before


def _history(mlflow: Any, name: str, alias: str) -> list[int]:
    """The versions that an alias meant, the present one last, as far as we set it."""
    written = mlflow.get_registered_model(name).tags.get(_HISTORY_TAG.format(alias=alias), "")
    return [int(version) for version in written.split()]


def _remember(mlflow: Any, name: str, alias: str, history: Sequence[int]) -> None:
    tag = " ".join(str(version) for version in history[-_MAX_HISTORY:])
    mlflow.set_registered_model_tag(name, _HISTORY_TAG.format(alias=alias), tag)


def _stored_sizes(mlflow: Any, run_id: str, path: str) -> dict[str, int]:
    """Size of each artifact under `path`, by its name relative to it."""
    sizes = {}
    folders = [path]
    while folders:
        for entry in mlflow.list_artifacts(run_id, folders.pop()):
            if entry.is_dir:
                folders.append(entry.path)
            else:
                sizes[entry.path.removeprefix(f"{path}/")] = entry.file_size
    return sizes
