"""Promotion: a model is registered with all that speaks for it, and takes the champion's place if the gate opens."""

import json
import logging
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from caspi.errors import GateError, ModelError, RecipeError, ResultsError
from caspi.evaluation.gate import Check, Verdict, judge
from caspi.evaluation.results import Results
from caspi.recipe import parse_recipe
from caspi.recipe.gate import Gate
from caspi.tracking.client import client
from caspi.tracking.evaluation import place_of, store_evaluation
from caspi.tracking.model_files import read_model_files
from caspi.tracking.model_uri import MODEL_ARTIFACT, is_uri, run_and_path
from caspi.tracking.provenance import code_version
from caspi.tracking.registry import (
    CANDIDATE,
    CHAMPION,
    DIGEST_TAG,
    check_name,
    log_model_files,
    register,
    set_alias,
    version_at,
)

logger = logging.getLogger(__name__)

_REGISTRATIONS = "caspi-registrations"  # the experiment of models that no run of ours uploaded
_EVALUATION_TAG = "caspi.evaluation"  # of a version: where in its run's artifacts the evaluation is
_GATE_TAG = "caspi.gate"
_MAX_ASKED = 5  # by one promotion, while others change what the alias means
_METRICS_AS_TAGS = (
    "wer", "cer", "wer_interval", "substitutions", "deletions", "insertions", "reference_words", "num_utterances",
    "num_hallucinated_on_silence", "normalizer", "split",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Promotion:
    """What became of it."""

    version: int
    replaced: int | None
    """The version that had the alias before."""

    verdict: Verdict | None
    """None where the gate was not asked."""


def promote(
    model: str | Path,
    name: str,
    *,
    alias: str = CHAMPION,
    uri: str,
    evaluation: str | Path | None = None,
    champion_evaluation: str | Path | None = None,
    gate: Gate | None = None,
    ask_gate: bool = True,
) -> Promotion:
    """Register a model as the newest version of `name`, as `candidate`, and as `alias` if the gate opens.

    A folder is uploaded unless a run already holds the same files. A model that is already a version keeps its number.
    The evaluation and the verdict are stored with the run that holds the model.

    Where the alias comes to mean another version while the gate is asked, it is asked again about that one. MLflow
    cannot set an alias on condition of what it meant: of two promotions that end within the same few milliseconds the
    later one wins, though it was not held to the other.

    Args:
        model: a folder such as RUN/model, `runs:/ID/model`, or `models:/NAME/VERSION`.
        evaluation: the folder that `caspi evaluate` wrote for it.
            Default: RUN/evaluation, else what was stored with the version before.
        champion_evaluation: the same of the model that has the alias now.
            Default: what was stored with it, best on the candidate's test set.
        gate: the bounds. Default: those of the recipe that the model was trained by.
        ask_gate: False sets the alias whatever the gate would say; the version says so.

    Raises:
        GateError: the gate stays shut, or the champion is another one each time that it is asked. The model is
            registered as `candidate`; `alias` means what it meant.
        ModelError: this is not a model, or cannot be called so; nothing was registered.
        ResultsError: an evaluation cannot be read; nothing was registered.
        TrackingError: the server does not answer, or refuses.
    """
    check_name(name, alias)
    folder = None if is_uri(str(model)) else Path(model).expanduser().absolute()
    given = _evaluation_beside(folder) if evaluation is None else Path(evaluation).expanduser()
    found = Results.read(given) if given else None
    champion = Results.read(champion_evaluation) if champion_evaluation else None

    run_id = _run_that_holds(folder, name, uri) if folder else _run_of(str(model), uri)
    holder = version_at(uri, name, alias)
    if found is not None:
        _check_is_of(found, run_id, uri)
    if champion is not None and holder is not None:
        _check_is_of(champion, _run_of(f"models:/{name}/{holder}", uri), uri)
    version = _version_of(run_id, name, uri) or register(uri, name, run_id)
    if given is not None and found is not None:
        _store_evaluation(uri, name, version, given, found)
    set_alias(uri, name, CANDIDATE, version)
    if alias == CANDIDATE or holder == version:
        return Promotion(version, holder, None)
    if not ask_gate:
        _tag(uri, name, version, {_GATE_TAG: "not asked"})
        set_alias(uri, name, alias, version)
        return Promotion(version, holder, None)
    found = found or _stored_evaluation(uri, name, version)
    return _pass_gate(uri, name, version, alias, found, champion, gate or _gate_of(run_id, uri))


def _pass_gate(
    uri: str, name: str, version: int, alias: str, found: Results | None, champion: Results | None, gate: Gate
) -> Promotion:
    """Give a version the alias if the gate opens: that is, against what the alias means once the gate has answered."""
    for _ in range(_MAX_ASKED):
        holder = version_at(uri, name, alias)
        if holder == version:  # somebody promoted the same model meanwhile
            return Promotion(version, holder, None)
        against = _evaluation_of_holder(uri, name, holder, given=champion, like=found)
        verdict = _ask(found, against, gate, has_holder=holder is not None)
        _store_verdict(uri, name, version, alias, holder, verdict, gate)
        if not verdict.passed:
            stays = f"stays version {holder}" if holder is not None else "means no version"
            raise GateError(
                f"models:/{name}@{alias} {stays}: version {version}, now {CANDIDATE}, does not pass the gate\n"
                + "\n".join(f"  {refusal}" for refusal in verdict.refusals)
            )
        if version_at(uri, name, alias) == holder:
            set_alias(uri, name, alias, version)
            return Promotion(version, holder, verdict)
    raise GateError(
        f"models:/{name}@{alias} came to mean another version {_MAX_ASKED} times while version {version}, now "
        f"{CANDIDATE}, was held to it; promote it again"
    )


def _ask(candidate: Results | None, champion: Results | None, gate: Gate, *, has_holder: bool) -> Verdict:
    """The gate's verdict, where an evaluation may be missing too."""
    if candidate is None and not has_holder and not gate.has_absolute_bounds:
        return Verdict(
            (Check("evaluation", True, "none; there is no champion, and the gate sets no bound of its own"),)
        )
    if candidate is None:
        remedy = "evaluate it with `caspi evaluate` and give the folder with --evaluation"
        return Verdict((Check("evaluation", False, f"the candidate has none; {remedy}"),))
    if has_holder and champion is None:
        remedy = "evaluate it on the same test set and give the folder with --champion-evaluation"
        return Verdict((Check("evaluation", False, f"the champion has none; {remedy}"),))
    return judge(candidate, champion, gate)


# --- the model -------------------------------------------------------------------------------------------------------


def _run_of(model: str, uri: str) -> str:
    run_id, path = run_and_path(model, uri)
    if path != MODEL_ARTIFACT:
        raise ModelError(f"{model}: expected runs:/{run_id}/{MODEL_ARTIFACT}")
    return run_id


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


def _gate_of(run_id: str, uri: str) -> Gate:
    """The gate of the recipe that the run stored; the default one for a model that no recipe belongs to."""
    with client(uri) as mlflow, tempfile.TemporaryDirectory() as temporary:
        if not any(entry.path == "recipe.yaml" for entry in mlflow.list_artifacts(run_id)):
            return Gate()
        path = Path(mlflow.download_artifacts(run_id, "recipe.yaml", temporary))
        try:
            return parse_recipe(yaml.safe_load(path.read_text(encoding="utf-8"))).gate
        except RecipeError as error:
            raise RecipeError(
                f"this Caspi does not read the recipe of run {run_id}; say with --recipe which gate holds: {error}"
            ) from error


# --- what speaks for it ----------------------------------------------------------------------------------------------


def _evaluation_beside(folder: Path | None) -> Path | None:
    """RUN/evaluation for RUN/model, if it is there."""
    beside = folder.parent / "evaluation" if folder else None
    return beside if beside and (beside / "metrics.json").is_file() else None


def _check_is_of(evaluation: Results, run_id: str, uri: str) -> None:
    """Make sure that an evaluation is of the model that the run holds."""
    if not _is_of(evaluation, run_id, uri):
        raise ResultsError(
            f"an evaluation of {evaluation.metrics['model']} was given, whose files are not those of the model in run "
            f"{run_id}; evaluate that one, and give the folder with --evaluation, or --champion-evaluation"
        )


def _is_of(evaluation: Results, run_id: str, uri: str) -> bool:
    """Whether an evaluation is of the model that the run holds, by the hash of its files."""
    with client(uri) as mlflow:
        return bool(evaluation.metrics["model_fingerprint"] == mlflow.get_run(run_id).data.tags.get(DIGEST_TAG))


def _store_evaluation(uri: str, name: str, version: int, folder: Path, results: Results) -> None:
    """An evaluation with the model's run, and its headline as tags of the version: seen where versions are listed."""
    with client(uri) as mlflow:
        run_id = mlflow.get_model_version(name, str(version)).run_id
        artifact_path = store_evaluation(mlflow, run_id, folder, results.metrics)
    _tag(uri, name, version, _metric_tags(results.metrics) | {_EVALUATION_TAG: artifact_path})


def _evaluation_of_holder(
    uri: str, name: str, holder: int | None, *, given: Results | None, like: Results | None
) -> Results | None:
    """The evaluation of the version that has the alias: the one that was given if it is of it, else a stored one."""
    if holder is None:
        return None
    if given is not None and _is_of(given, _run_of(f"models:/{name}/{holder}", uri), uri):
        return given
    return _stored_evaluation(uri, name, holder, like=like)


def _stored_evaluation(uri: str, name: str, version: int, *, like: Results | None = None) -> Results | None:
    """The evaluation that was stored with a version, if one was; one on the test set of another, if there is one.

    None too where it is of other files than the version's: its run may have been given another model since.
    """
    with client(uri) as mlflow, tempfile.TemporaryDirectory() as temporary:
        stored = mlflow.get_model_version(name, str(version))
        place = stored.tags.get(_EVALUATION_TAG)
        kept = [entry.path for entry in mlflow.list_artifacts(stored.run_id, "evaluation")]
        if like is not None and place_of(like.metrics) in kept:
            place = place_of(like.metrics)
        if place is None:
            return None
        try:
            found = Results.read(mlflow.download_artifacts(stored.run_id, place, temporary))
        except ResultsError as error:
            raise ResultsError(
                f"version {version} of {name}: what was stored with it is no evaluation: {error}"
            ) from error
    if not _is_of(found, stored.run_id, uri):
        logger.warning("version %d of %s: what is stored as its evaluation is of another model", version, name)
        return None
    return found


def _store_verdict(
    uri: str, name: str, version: int, alias: str, holder: int | None, verdict: Verdict, gate: Gate
) -> None:
    """verdict.json, and the comparison with the champion, as artifacts of the model's run: one pair for each asking."""
    asked = datetime.now(UTC)
    record = {
        "model": name,
        "version": version,
        "alias": alias,
        "against_version": holder,
        "asked": asked.isoformat("T", "seconds"),
        "gate": gate.model_dump(mode="json"),
        **verdict.to_dict(),
    }
    artifact_path = f"promotion/{name}-{version}/{asked:%Y%m%dT%H%M%S.%fZ}"
    with client(uri) as mlflow, tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "verdict.json").write_text(json.dumps(record, ensure_ascii=False, indent=2), encoding="utf-8")
        if verdict.comparison is not None:
            verdict.comparison.write(folder)
        run_id = mlflow.get_model_version(name, str(version)).run_id
        mlflow.log_artifacts(run_id, str(folder), artifact_path)
    answer = "passed" if verdict.passed else "refused"
    _tag(uri, name, version, {_GATE_TAG: answer, "caspi.verdict": f"{artifact_path}/verdict.json"})


def _tag(uri: str, name: str, version: int, tags: Mapping[str, str]) -> None:
    with client(uri) as mlflow:
        for key, value in tags.items():
            mlflow.set_model_version_tag(name, str(version), key, value)


def _metric_tags(metrics: Mapping[str, Any]) -> dict[str, str]:
    tags = {key: json.dumps(metrics[key]).strip('"') for key in _METRICS_AS_TAGS if key in metrics}
    if metrics.get("corpus_fingerprint"):
        tags["caspi.evaluated_on"] = str(metrics["corpus_fingerprint"])
    return tags
