"""A preparation in MLflow: what went in, what came out, and the page that shows it."""

import json
import logging
from collections.abc import Iterator
from typing import Any

from caspi import settings
from caspi.corpus.format import Corpus
from caspi.errors import TrackingError
from caspi.recipe import Recipe
from caspi.tracking.client import client
from caspi.tracking.run import create_run, log_figures
from caspi.tracking.server import server

logger = logging.getLogger(__name__)


def log_preparation(recipe: Recipe, corpus: Corpus, *, uri: str) -> str:
    """Store a finished preparation as a run of the recipe's experiment. Returns its id.

    It holds what every run holds (see `create_run`), the manifest's counts as metrics `data/...`, and report.html.

    Raises:
        TrackingError: the server does not answer, or refuses.
    """
    with client(uri) as mlflow:
        from mlflow.entities import RunStatus

        run_id = create_run(mlflow, recipe, corpus, stage="prepare", name=f"prepare {recipe.name}")
        log_figures(mlflow, run_id, _metrics(corpus))
        mlflow.log_artifact(run_id, str(corpus.path / "report.html"))
        mlflow.set_terminated(run_id, RunStatus.to_string(RunStatus.FINISHED))
    return run_id


def record_preparation(recipe: Recipe, corpus: Corpus) -> str | None:
    """Log to the MLflow server that `MLFLOW_TRACKING_URI` names. Returns the run's id; None where nothing was logged.

    Without the variable nothing is: an embedded server would add five seconds to every preparation, to repeat what
    manifest.json and report.html say, and a training on the corpus stores the manifest anyway. Inside
    `tracking.server()`, as in the demo, the variable is set. The corpus is finished, so trouble is only a warning.
    """
    if settings.read().tracking_uri is None:
        return None
    try:
        with server() as uri:  # only looks whether it answers, which a client of MLflow's would try for minutes
            return log_preparation(recipe, corpus, uri=uri)
    except TrackingError as error:
        logger.warning("the corpus is complete, but MLflow does not know of it: %s", error)
        return None


def _metrics(corpus: Corpus) -> Iterator[tuple[str, float]]:
    """The manifest's numbers, under names that a chart can compare."""
    manifest = corpus.manifest
    for name in ("hours", "num_utterances", "num_recordings", "num_recordings_rejected"):
        yield f"data/{name}", manifest[name]
    for split, counts in manifest["splits"].items():
        yield f"data/hours_{split}", counts["hours"]
        yield f"data/num_utterances_{split}", counts["num_utterances"]
    for reason, count in manifest["rejected_by_reason"].items():
        yield f"data/rejected_{reason}", count
    for name, numbers in manifest["statistics"]["quantities"].items():
        yield f"data/median_{name}", numbers["quantiles"]["p50"]
    yield from _speed(corpus)


def _speed(corpus: Corpus) -> Iterator[tuple[str, float]]:
    """How fast it was, by prepare.json. A corpus that was copied may have come without it."""
    try:
        speed: dict[str, Any] = json.loads((corpus.path / "prepare.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return
    yield "data/rtfx", speed["rtfx"]
    yield "data/prepare_s", speed["seconds"]
