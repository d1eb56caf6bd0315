"""A comparison in MLflow: a run of its own, since it belongs to no model more than to another."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from caspi.evaluation.comparing import Comparison
from caspi.tracking.client import client
from caspi.tracking.evaluation import record
from caspi.tracking.provenance import provenance
from caspi.tracking.report_page import log_page
from caspi.tracking.run import experiment_id, log_figures

_EXPERIMENT = "caspi-comparisons"


def log_comparison(folder: str | Path, comparison: Comparison, *, uri: str) -> str:
    """Store what `caspi compare` wrote to a folder as a run. Returns the run's id.

    Figures become metrics `NAME/wer` and `NAME against BASELINE/...`; a tag names the test set.

    Raises:
        TrackingError: the server does not answer, or refuses.
    """
    summary = comparison.summary
    tags = {**provenance(), "caspi.stage": "compare", "caspi.test_set": summary["test_set"]["fingerprint"]}
    with client(uri) as mlflow:
        experiment = experiment_id(mlflow, _EXPERIMENT)
        run_id = str(mlflow.create_run(experiment, run_name=" / ".join(comparison.names), tags=tags).info.run_id)
        log_figures(mlflow, run_id, _figures(summary))
        for name in ("comparison.json", "comparison.parquet"):
            mlflow.log_artifact(run_id, str(Path(folder) / name))
        log_page(mlflow, run_id, Path(folder) / "comparison.html")
        mlflow.set_terminated(run_id)
    return run_id


def record_comparison(folder: str | Path, comparison: Comparison) -> str | None:
    """`log_comparison` to the server that `record` finds; None where nothing was logged."""
    return record("comparison", lambda uri: log_comparison(folder, comparison, uri=uri))


def _figures(summary: dict[str, Any]) -> Iterator[tuple[str, float]]:
    for system in summary["systems"]:
        yield f"{system['name']}/wer", system["wer"]
        yield f"{system['name']}/cer", system["cer"]
    for pair in summary["pairs"]:
        versus = f"{pair['system']} against {pair['baseline']}"
        yield f"{versus}/wer_difference", pair["wer_difference"]
        if pair["wer_difference_interval"] is not None:
            yield f"{versus}/wer_difference_low", pair["wer_difference_interval"][0]
            yield f"{versus}/wer_difference_high", pair["wer_difference_interval"][1]
        if pair["probability_better"] is not None:  # null: all of one recording
            yield f"{versus}/probability_better", pair["probability_better"]
