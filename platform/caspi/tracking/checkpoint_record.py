"""Checkpoints in MLflow: where each one is, what its files must hash to, and how good it is. Files are not uploaded.

A checkpoint is the run's artifact `checkpoints/step-00000100.json` and one of MLflow's logged models, of the external
kind: MLflow's pages list and sort logged models by their metrics. `mlflow.create_external_model` makes the same, but
for the process' own global tracking server, with a file that only MLflow's own flavours need, and a second model when
an answer gets lost. The model is not among the run's `outputs`, which MLflow can neither replace nor remove; its
`source_run_id` leads to the run.
"""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from caspi.errors import TrackingError
from caspi.tracking.artifact_store import ArtifactStore
from caspi.tracking.model_files import ModelFiles, hash_files
from caspi.tracking.points import Point, history, metrics_json
from caspi.tracking.rest import Refused, Rest, Unreachable

_MODEL_TYPE = "checkpoint"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What MLflow learns of a checkpoint."""

    step: int
    place: str
    """A folder or a URI."""
    metrics: Mapping[str, float]
    """How good it is, under the names of the run's curves, such as `eval/wer`."""
    files: ModelFiles
    """Its files by their names below `place`."""
    is_best: bool
    """Whether it was better than all before it, when it was written."""
    recorded_at_ms: int = field(default_factory=lambda: time.time_ns() // 1_000_000)

    @classmethod
    def of(cls, folder: Path, *, step: int, metrics: Mapping[str, float], is_best: bool) -> "Checkpoint":
        """Describe a folder. Reads every file whole, for its hash."""
        return cls(step, str(folder), metrics, hash_files(folder), is_best)

    def to_json(self) -> str:
        record = {
            "step": self.step,
            "place": self.place,
            "is_best": self.is_best,
            "metrics": dict(self.metrics),
            "recorded_at_ms": self.recorded_at_ms,
            **json.loads(self.files.to_json()),
        }
        return json.dumps(record, indent=1)


def record_checkpoint(
    uri: str, run_id: str, step: int, path: str | Path, metrics: Mapping[str, float], *, is_best: bool = False
) -> None:
    """Record the checkpoint in a folder now, for a driver that has no `MetricWriter`. The step's record is replaced.

    Raises:
        TrackingError: the server does not answer, or does not know the run.
    """
    checkpoint = Checkpoint.of(Path(path), step=step, metrics=metrics, is_best=is_best)
    _now(uri, run_id, lambda records: records.put(json.loads(checkpoint.to_json())))


def forget_checkpoint(uri: str, run_id: str, step: int) -> None:
    """Remove the record of a checkpoint whose files were deleted. One that is not recorded is no error.

    Raises:
        TrackingError: the server does not answer, or does not know the run.
    """
    _now(uri, run_id, lambda records: records.remove(step))


def _now(uri: str, run_id: str, action: Callable[["CheckpointRecords"], None]) -> None:
    rest = Rest(uri, run_id)
    try:
        action(CheckpointRecords(rest, ArtifactStore(rest)))
    except (Refused, Unreachable) as error:
        raise TrackingError(f"MLflow at {uri}: {error}") from error


class CheckpointRecords:
    """The checkpoints that MLflow knows of a run. Doing something twice does no harm."""

    def __init__(self, rest: Rest, artifacts: ArtifactStore) -> None:
        self._rest = rest
        self._artifacts = artifacts

    def put(self, record: Mapping[str, Any]) -> None:
        """Store what `Checkpoint.to_json` gave.

        Raises:
            Refused: MLflow does not accept it.
            Unreachable: it is not known whether it arrived.
        """
        step = int(record["step"])
        self._artifacts.upload(json.dumps(record, indent=1).encode(), _artifact_path(step))
        model_id = self._model_id(step) or self._create_model(step)
        tags = {
            "caspi.place": record["place"],
            "caspi.digest": record["digest"],
            "caspi.is_best": str(record["is_best"]).lower(),
            "caspi.size_bytes": str(sum(each["size_bytes"] for each in record["files"].values())),
        }
        pairs = [{"key": key, "value": value} for key, value in tags.items()]
        self._rest.call("PATCH", f"logged-models/{model_id}/tags", json={"tags": pairs})
        self._link_metrics(
            model_id, [Point(key, value, step, record["recorded_at_ms"]) for key, value in record["metrics"].items()]
        )

    def remove(self, step: int) -> None:
        """Remove the record of a step, if there is one.

        Raises:
            Refused: MLflow does not remove it.
            Unreachable: it is not known whether it is gone.
        """
        while model_id := self._model_id(step):
            self._rest.call("DELETE", f"logged-models/{model_id}")
        self._artifacts.delete(_artifact_path(step))

    def _model_id(self, step: int) -> str | None:
        """The logged model of a step."""
        body = {
            "experiment_ids": [self._rest.run()["info"]["experiment_id"]],
            "filter": f"name = '{_model_name(step)}' AND source_run_id = '{self._rest.run_id}'",
            "max_results": 1,
        }
        found = self._rest.call("POST", "logged-models/search", json=body).get("models", [])
        return str(found[0]["info"]["model_id"]) if found else None

    def _create_model(self, step: int) -> str:
        body = {
            "experiment_id": self._rest.run()["info"]["experiment_id"],
            "name": _model_name(step),
            "model_type": _MODEL_TYPE,
            "source_run_id": self._rest.run_id,
            "params": [{"key": "step", "value": str(step)}],
            "tags": [{"key": "mlflow.model.isExternal", "value": "true"}],
        }
        model_id = str(self._rest.call("POST", "logged-models", json=body)["model"]["info"]["model_id"])
        ready = {"model_id": model_id, "status": "LOGGED_MODEL_READY"}
        self._rest.call("PATCH", f"logged-models/{model_id}", json=ready)
        return model_id

    def _link_metrics(self, model_id: str, points: Sequence[Point]) -> None:
        """Give the model its metrics. To MLflow they are points of the run too; what it has, it gets as it is."""
        if points:
            metrics = [{**metric, "model_id": model_id} for metric in metrics_json(map(self._known, points))]
            self._rest.call("POST", "runs/log-batch", json={"run_id": self._rest.run_id, "metrics": metrics})

    def _known(self, point: Point) -> Point:
        """The run's own point of that key and step, where it has one: the same once more is no second point."""
        return next((known for known in history(self._rest, point.key) if known.step == point.step), point)


def _artifact_path(step: int) -> str:
    return f"checkpoints/step-{step:08d}.json"


def _model_name(step: int) -> str:
    return f"step-{step:08d}"
