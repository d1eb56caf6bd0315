"""A run in MLflow: created by the driver, with everything that it depends on. Curves come from `writer.py`."""

import json
import subprocess
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from caspi.corpus.format import Corpus
from caspi.errors import TrackingError
from caspi.recipe import Recipe, show
from caspi.tracking.client import client

Status = Literal["FINISHED", "FAILED", "KILLED"]
Stage = Literal["prepare", "train"]

# MLflow's limits on one request and on one parameter.
_MAX_PARAMS_PER_REQUEST = 100
_MAX_PARAM_CHARS = 6000


def start_run(recipe: Recipe, corpus: Corpus, *, uri: str, name: str | None = None) -> str:
    """Create a training run. Returns its id; `create_run` says what it holds.

    Raises:
        TrackingError: the server does not answer, or refuses.
    """
    with client(uri) as mlflow:
        return create_run(mlflow, recipe, corpus, stage="train", name=name or recipe.name)


def create_run(mlflow: Any, recipe: Recipe, corpus: Corpus, *, stage: Stage, name: str) -> str:
    """Create a run under the recipe's experiment and say what it depends on. Returns its id. For within `client`.

    Parameters are the recipe's values under their dotted keys; `recipe.yaml`, the corpus' `manifest.json` and
    `packages.txt` are stored whole; tags name the stage, the corpus fingerprint and the code version.
    """
    from mlflow.entities import Param

    tags = {"caspi.stage": stage, "caspi.recipe": recipe.name, "caspi.corpus_fingerprint": corpus.fingerprint}
    experiment = _experiment_id(mlflow, recipe.tracking.experiment)
    run_id: str = mlflow.create_run(experiment, run_name=name, tags={**tags, **code_version()}).info.run_id
    params = [Param(key, value) for key, value in flatten(recipe.model_dump(mode="json"))]
    for start in range(0, len(params), _MAX_PARAMS_PER_REQUEST):
        mlflow.log_batch(run_id, params=params[start : start + _MAX_PARAMS_PER_REQUEST])
    mlflow.log_text(run_id, show(recipe), "recipe.yaml")
    mlflow.log_text(run_id, json.dumps(corpus.manifest, ensure_ascii=False, indent=2), "manifest.json")
    mlflow.log_text(run_id, packages(), "packages.txt")
    return run_id


def resume_run(uri: str, run_id: str) -> None:
    """Mark an existing run as running again.

    Raises:
        TrackingError: the server does not answer, or does not know the run.
    """
    with client(uri) as mlflow:
        mlflow.update_run(run_id, status="RUNNING")


def finish_run(uri: str, run_id: str, status: Status = "FINISHED") -> None:
    """Say how a run ended. Saying it twice does no harm.

    Raises:
        TrackingError: the server does not answer, or does not know the run.
    """
    with client(uri) as mlflow:
        mlflow.set_terminated(run_id, status)


def flatten(values: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Nested values as (dotted key, text), items of lists by number; what is too long for MLflow is cut."""
    if isinstance(values, Mapping) and values:
        for key, value in values.items():
            yield from flatten(value, f"{prefix}.{key}" if prefix else str(key))
    elif isinstance(values, list) and any(isinstance(item, dict | list) for item in values):
        for position, value in enumerate(values):
            yield from flatten(value, f"{prefix}.{position}")
    else:
        yield prefix, str(values)[:_MAX_PARAM_CHARS]


def code_version() -> dict[str, str]:
    """Tags that say which Caspi ran: its version, and the commit when it runs from its repository."""
    tags = {"caspi.version": metadata.version("caspi")}
    here = Path(__file__).parent
    # An installed Caspi may lie inside somebody else's repository, whose commit says nothing of it: ask for our file.
    if _git(here, "ls-files", Path(__file__).name):
        tags["mlflow.source.git.commit"] = _git(here, "rev-parse", "HEAD")
        tags["caspi.uncommitted_changes"] = str(bool(_git(here, "status", "--porcelain"))).lower()
    return tags


def packages() -> str:
    """Every installed distribution with its version, a line each."""
    found = {(each.metadata["Name"] or "").lower(): each.version for each in metadata.distributions()}
    return "".join(f"{name}=={version}\n" for name, version in sorted(found.items()) if name)


def _git(folder: Path, *arguments: str) -> str:
    """What git says, or nothing where it or a repository is missing."""
    try:
        answer = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return answer.stdout.strip()


def _experiment_id(mlflow: Any, name: str) -> str:
    """The experiment's id; it is created unless it exists, by us or by someone who was faster."""
    from mlflow.exceptions import MlflowException

    experiment = mlflow.get_experiment_by_name(name)
    if experiment is None:
        try:
            return str(mlflow.create_experiment(name))
        except MlflowException:
            experiment = mlflow.get_experiment_by_name(name)
    if experiment is None or experiment.lifecycle_stage != "active":
        raise TrackingError(f"experiment {name!r} was deleted in MLflow; restore it there or set tracking.experiment")
    return str(experiment.experiment_id)
