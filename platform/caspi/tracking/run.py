"""A run in MLflow: created by the driver, with everything that it depends on. Curves come from `writer.py`."""

import json
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal

from caspi.corpus.format import Corpus
from caspi.errors import RunError, TrackingError
from caspi.recipe import Recipe, show
from caspi.tracking.client import client
from caspi.tracking.parent_model import parent_model
from caspi.tracking.provenance import packages, provenance

Status = Literal["FINISHED", "FAILED", "KILLED"]
Stage = Literal["prepare", "train"]

# MLflow's limits on one request and on one parameter.
_MAX_PARAMS_PER_REQUEST = 100
_MAX_METRICS_PER_REQUEST = 1000
_MAX_PARAM_CHARS = 6000

# What MLflow takes in the name of a metric. Ours may hold what a source or a speaker is called.
_NOT_IN_NAMES = re.compile(r"[^\w\-. :/]")


def start_run(recipe: Recipe, corpus: Corpus, *, uri: str, name: str | None = None) -> str:
    """Create a training run. Returns its id; `create_run` says what it holds.

    It also says from which model it starts, by tags and, where its files are known, by `parent_model.json`.

    Raises:
        ModelError: the recipe's `model.init` is a folder or a name in MLflow, and not a model.
        TrackingError: the server does not answer, or refuses.
    """
    parent = parent_model(recipe.model.init, uri=uri)
    with client(uri) as mlflow:
        run_id = create_run(mlflow, recipe, corpus, stage="train", name=name or recipe.name, tags=parent.tags)
        if parent.files is not None:
            mlflow.log_text(run_id, parent.files.to_json(), "parent_model.json")
    return run_id


def create_run(
    mlflow: Any, recipe: Recipe, corpus: Corpus, *, stage: Stage, name: str, tags: Mapping[str, str] | None = None
) -> str:
    """Create a run under the recipe's experiment and say what it depends on. Returns its id. For within `client`.

    Parameters are the recipe's values under their dotted keys; `recipe.yaml`, the corpus' `manifest.json` and
    `packages.txt` are stored whole; tags name the stage, the corpus fingerprint, what `provenance` finds, and `tags`.
    """
    from mlflow.entities import Param

    ours = {"caspi.stage": stage, "caspi.recipe": recipe.name, "caspi.corpus_fingerprint": corpus.fingerprint}
    tags = {**provenance(), **ours, **(tags or {})}
    experiment = experiment_id(mlflow, recipe.tracking.experiment)
    run_id: str = mlflow.create_run(experiment, run_name=name, tags=tags).info.run_id
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
        RunError: the server does not know the run, or it was deleted there.
        TrackingError: the server does not answer.
    """
    with client(uri) as mlflow:
        from mlflow.exceptions import MlflowException

        try:
            run = mlflow.get_run(run_id)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            raise RunError(
                f"MLflow at {uri} does not know run {run_id}; resume with the MLFLOW_TRACKING_URI, or without one the "
                "CASPI_HOME, that it was started with, or start a new run with another --output"
            ) from error
        if run.info.lifecycle_stage != "active":
            raise RunError(
                f"run {run_id} was deleted in MLflow at {uri}; restore it there (`mlflow runs restore --run-id "
                f"{run_id}`), or start a new run with another --output"
            )
        mlflow.update_run(run_id, status="RUNNING")


def finish_run(uri: str, run_id: str, status: Status = "FINISHED") -> None:
    """Say how a run ended. Saying it twice does no harm.

    Raises:
        TrackingError: the server does not answer, or does not know the run.
    """
    with client(uri) as mlflow:
        mlflow.set_terminated(run_id, status)


def log_figures(mlflow: Any, run_id: str, figures: Iterable[tuple[str, float]]) -> None:
    """Store numbers that have no curve, under names that a chart can compare. For within `client`."""
    from mlflow.entities import Metric

    timestamp_ms = int(1000 * time.time())
    metrics = [Metric(_NOT_IN_NAMES.sub("_", key), float(value), timestamp_ms, 0) for key, value in figures]
    for start in range(0, len(metrics), _MAX_METRICS_PER_REQUEST):
        mlflow.log_batch(run_id, metrics=metrics[start : start + _MAX_METRICS_PER_REQUEST])


def experiment_id(mlflow: Any, name: str) -> str:
    """The experiment's id; it is created unless it exists, by us or by someone who was faster. For within `client`."""
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
