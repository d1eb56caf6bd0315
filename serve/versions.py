"""Which model answers: an alias resolved to a version once, so that every replica of a deployment has the same one."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from caspi import settings, tracking
from caspi.errors import ModelError, RequestError
from caspi.tracking.model_download import uploaded_files
from caspi.tracking.model_files import read_model_files
from caspi.tracking.model_uri import pin_version


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A model and what it is known by."""

    name: str
    """Of the registered model; else the folder's name, or the Hub id."""

    version: str
    """The registered version, `7`; else the beginning of `sha`. What metrics, logs and the answer's header show."""

    sha: str
    """Digest of all its files. Empty for a Hub id."""

    place: str
    """The folder, or Hub id, that an engine opens."""


@dataclass(frozen=True, slots=True)
class State:
    """What a replica says of itself."""

    model: ServedModel
    since: float
    """Unix time from which this model answers."""

    problem: str = ""
    """Why the model that was asked for last is not the one that answers. Empty: it is."""


def pin(model: str) -> dict[str, str]:
    """The `user_config` that makes every replica serve what MODEL means now.

    `models:/NAME@alias` becomes `models:/NAME/VERSION` with the digest of its files, by which a replica that starts
    later finds them on its own disk even while MLflow is away.

    Raises:
        ModelError: MLflow has no such model.
        TrackingError: MLflow does not answer.
    """
    if not tracking.is_uri(model):
        return {"model": model}
    with tracking.server() as uri:
        pinned = pin_version(model, uri)
        _, files = uploaded_files(pinned, uri=uri)
    return {"model": pinned, "sha": files.digest}


def locate(user_config: Mapping[str, Any]) -> ServedModel:
    """The model that a `user_config` names, on this machine's disk.

    Raises:
        RequestError: it has other keys than `model` and `sha`.
        ModelError: there is no such model, or its files are not what was uploaded.
        TrackingError: MLflow does not answer, and the files are not here yet.
    """
    if not {"model"} <= set(user_config) <= {"model", "sha"}:
        raise RequestError(
            f"user_config has {sorted(user_config)}; expected model, such as models:/NAME/7, and no other"
        )
    model, sha = str(user_config["model"]), str(user_config.get("sha", ""))
    if not tracking.is_uri(model):
        return _unregistered(model)
    kept = settings.read().home / "models" / sha
    if not sha or not kept.is_dir():
        with tracking.server() as uri:
            model = pin_version(model, uri)
            kept = tracking.resolve(model, uri=uri)
    if sha and kept.name != sha:
        raise ModelError(f"{model} has files of digest {kept.name}; the deployment was made for {sha}; deploy it again")
    name, _, version = model.removeprefix("models:/").rpartition("/")
    if model.startswith("runs:"):
        return ServedModel(model, kept.name[:12], kept.name, str(kept))
    return ServedModel(name, version, kept.name, str(kept))


def _unregistered(model: str) -> ServedModel:
    folder = Path(model)
    if not folder.is_dir():
        return ServedModel(model, "unversioned", "", model)
    sha = read_model_files(folder).digest
    return ServedModel(folder.name, sha[:12], sha, model)
