"""The registry: which models there are, what they came from, and which one is in use."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from caspi.errors import ModelError, TrackingError
from caspi.tracking.client import client
from caspi.tracking.model_files import CHECKSUMS, read_model_files
from caspi.tracking.model_uri import MODEL_ARTIFACT, is_uri, run_and_path
from caspi.tracking.provenance import code_version

CANDIDATE = "candidate"
CHAMPION = "champion"

DIGEST_TAG = "caspi.model_digest"
_REGISTRATIONS = "caspi-registrations"  # the experiment of models that no run of ours uploaded
_METRICS_AS_TAGS = (
    "wer", "cer", "wer_interval", "substitutions", "deletions", "insertions", "reference_words", "num_utterances",
    "num_hallucinated_on_silence", "normalizer", "split",
)  # fmt: skip


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


def set_alias(uri: str, name: str, alias: str, version: int) -> None:
    """Let `models:/NAME@alias` mean this version.

    Raises:
        TrackingError: the server does not answer, or knows no such version.
    """
    with client(uri) as mlflow:
        mlflow.set_registered_model_alias(name, alias, str(version))


def promote(
    model: str | Path,
    name: str,
    *,
    alias: str = CHAMPION,
    uri: str,
    metrics: Mapping[str, Any] | str | Path | None = None,
) -> int:
    """Register a model as the newest version of `name`, as `candidate` and then as `alias`. Returns the version.

    A folder is uploaded unless a run already holds the same files. A model that is already a version keeps its number.

    Args:
        model: a folder such as RUN/model, `runs:/ID/model`, or `models:/NAME/VERSION`.
        metrics: what `caspi evaluate` found, or the path of its metrics.json.
            Default: RUN/evaluation/metrics.json, if there is one.

    Raises:
        ModelError: this is not a model; nothing was registered.
        TrackingError: the server does not answer, or refuses.
    """
    if is_uri(str(model)):
        run_id, path = run_and_path(str(model), uri)
        if path != MODEL_ARTIFACT:
            raise ModelError(f"{model}: expected runs:/{run_id}/{MODEL_ARTIFACT}")
        folder = None
    else:
        folder = Path(model).expanduser().absolute()
        run_id = _run_that_holds(folder, name, uri)
    tags = _metric_tags(metrics if metrics is not None else _metrics_beside(folder))
    version = _version_of(run_id, name, uri)
    if version is None:
        version = register(uri, name, run_id, tags=tags)
    else:
        _tag_version(uri, name, version, tags)
    set_alias(uri, name, CANDIDATE, version)
    set_alias(uri, name, alias, version)
    return version


def _run_that_holds(folder: Path, name: str, uri: str) -> str:
    """The run that uploaded these very files; where there is none, a new one."""
    digest = read_model_files(folder).digest
    with client(uri) as mlflow:
        experiments = [experiment.experiment_id for experiment in mlflow.search_experiments()]
        runs = mlflow.search_runs(experiments, f"tags.`{DIGEST_TAG}` = '{digest}'", max_results=1)
        if runs:
            return str(runs[0].info.run_id)
        experiment = mlflow.get_experiment_by_name(_REGISTRATIONS)
        experiment_id = experiment.experiment_id if experiment else mlflow.create_experiment(_REGISTRATIONS)
        run_id = str(mlflow.create_run(experiment_id, run_name=name, tags=code_version()).info.run_id)
        log_model_files(uri, run_id, folder)
        mlflow.set_terminated(run_id)
    return run_id


def _version_of(run_id: str, name: str, uri: str) -> int | None:
    """The version under which a run's model is registered, if it is."""
    with client(uri) as mlflow:
        versions = [each for each in mlflow.search_model_versions(f"name = '{name}'") if each.run_id == run_id]
        return max((int(each.version) for each in versions), default=None)


def _tag_version(uri: str, name: str, version: int, tags: Mapping[str, str]) -> None:
    with client(uri) as mlflow:
        for key, value in tags.items():
            mlflow.set_model_version_tag(name, str(version), key, value)


def _metrics_beside(folder: Path | None) -> Path | None:
    """RUN/evaluation/metrics.json for RUN/model."""
    path = folder.parent / "evaluation" / "metrics.json" if folder else None
    return path if path and path.is_file() else None


def _metric_tags(metrics: Mapping[str, Any] | str | Path | None) -> dict[str, str]:
    """The headline as tags of a version, so that versions can be compared where they are listed."""
    if metrics is None:
        return {}
    if isinstance(metrics, str | Path):
        try:
            metrics = json.loads(Path(metrics).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ModelError(f"{metrics}: not readable as the metrics.json of `caspi evaluate`: {error}") from error
    assert isinstance(metrics, Mapping)
    tags = {key: json.dumps(metrics[key]) for key in _METRICS_AS_TAGS if key in metrics}
    if metrics.get("corpus_fingerprint"):
        tags["caspi.evaluated_on"] = str(metrics["corpus_fingerprint"])
    return {key: value.strip('"') for key, value in tags.items()}


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
