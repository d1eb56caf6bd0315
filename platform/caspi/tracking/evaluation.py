"""An evaluation in MLflow: with the run that made the model, so that browsing a run shows how good it is."""

import logging
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from caspi import settings
from caspi.errors import TrackingError
from caspi.evaluation.results import Results
from caspi.tracking.client import client
from caspi.tracking.model_uri import is_uri, run_and_path
from caspi.tracking.provenance import provenance
from caspi.tracking.registry import DIGEST_TAG
from caspi.tracking.report_page import log_page
from caspi.tracking.run import experiment_id, log_figures
from caspi.tracking.server import server

logger = logging.getLogger(__name__)

_EXPERIMENT = "caspi-evaluations"
"""Of models that no run of ours made."""


def log_evaluation(folder: str | Path, *, uri: str) -> str:
    """Store what `caspi evaluate` wrote with the run that made the model, else with a new one. Returns the run's id.

    Figures become metrics `SPLIT/...`; the files lie in `evaluation/SPLIT-...`, a folder for each test set, and with
    them the sound that did not fit into report.html.

    Raises:
        ResultsError: the folder holds no evaluation.
        TrackingError: the server does not answer, or refuses.
    """
    folder = Path(folder)
    metrics = Results.read(folder).metrics
    run_id = _run_of_model(metrics, uri)
    with client(uri) as mlflow:
        is_new = run_id is None
        if run_id is None:
            tags = {**provenance(), "caspi.stage": "evaluate", "caspi.model": str(metrics["model"])}
            name = f"evaluate {metrics['system']['name']}"
            run_id = str(mlflow.create_run(experiment_id(mlflow, _EXPERIMENT), run_name=name, tags=tags).info.run_id)
        store_evaluation(mlflow, run_id, folder, metrics)
        if is_new:
            mlflow.set_terminated(run_id)
    return run_id


def store_evaluation(mlflow: Any, run_id: str, folder: Path, metrics: Mapping[str, Any]) -> str:
    """Log the figures and the files to a run. Returns the artifact path of the folder. For within `client`."""
    log_figures(mlflow, run_id, _figures(metrics))
    place = place_of(metrics)
    for name in ("metrics.json", "utterances.parquet"):
        mlflow.log_artifact(run_id, str(folder / name), place)
    if (folder / "report.html").is_file():
        log_page(mlflow, run_id, folder / "report.html", place)
    return place


def place_of(metrics: Mapping[str, Any]) -> str:
    """Where among a run's artifacts an evaluation on this test set lies."""
    return f"evaluation/{metrics['split']}-{metrics['test_set']['fingerprint'][:8]}"


def record_evaluation(folder: str | Path) -> str | None:
    """`log_evaluation` to the server that `record` finds; None where nothing was logged."""
    return record("evaluation", lambda uri: log_evaluation(folder, uri=uri))


def record(what: str, log: Callable[[str], str]) -> str | None:
    """Log to the MLflow server that is configured, or to the embedded one if there is anything in it.

    Returns what `log` returns for the server's address; None where nothing was logged. What is logged is finished, so
    trouble is only a warning.
    """
    configured = settings.read()
    if configured.tracking_uri is None and not (configured.mlflow_folder / "mlflow.db").exists():
        return None
    try:
        with server() as uri:
            return log(uri)
    except TrackingError as error:
        logger.warning("the %s is complete, but MLflow does not know of it: %s", what, error)
        return None


def _run_of_model(metrics: Mapping[str, Any], uri: str) -> str | None:
    """The run that a model's name means, or that uploaded these very files; None where no run did."""
    if is_uri(str(metrics["model"])):
        return run_and_path(metrics["model"], uri)[0]
    with client(uri) as mlflow:
        experiments = [each.experiment_id for each in mlflow.search_experiments()]
        condition = f"tags.`{DIGEST_TAG}` = '{metrics['model_fingerprint']}'"
        runs = mlflow.search_runs(experiments, condition, max_results=1)
    return str(runs[0].info.run_id) if runs else None


def _figures(metrics: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """What one compares between runs; the whole is in metrics.json."""
    split = metrics["split"]
    for name in ("wer", "cer", "num_utterances", "num_failed"):
        yield f"{split}/{name}", metrics[name]
    if metrics["wer_interval"] is not None:  # null: all of one recording
        yield f"{split}/wer_low", metrics["wer_interval"][0]
        yield f"{split}/wer_high", metrics["wer_interval"][1]
    if metrics["rtfx"] is not None:  # a file of hypotheses has no speed
        yield f"{split}/rtfx", metrics["rtfx"]
        yield f"{split}/latency_p95_s", metrics["latency_s"]["p95"]
    for name in ("num_hallucinated", "words_per_minute", "num_repetitions", "num_empty"):
        yield f"{split}/{name}", metrics["hallucination"][name]
    for name, score in metrics["scores"].items():
        yield f"{split}/wer_{name}", score["wer"]
    for group, parts in metrics["slices"].items():
        for name, part in parts.items():
            yield f"{split}/wer_by_{group}/{name}", part["wer"]
