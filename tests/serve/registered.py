"""Models in a real MLflow that answer with their one weight, for tests that exchange them."""

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from caspi import tracking
from caspi.inference.transcription import Transcription
from caspi.tracking.client import client
from tests.tracking.conftest import write_model

BROKEN = -1.0
DEAF = -2.0


def register(uri: str, folder: Path, name: str, *, weight: float) -> int:
    """A new version of `name`, which answers "WEIGHT PID". BROKEN cannot be loaded, DEAF fails on all but silence."""
    return register_folder(uri, write_model(folder / f"{name}-{weight}", weight=weight), name)


def register_folder(uri: str, model: Path, name: str) -> int:
    """A model folder as the next version of `name`."""
    with client(uri) as mlflow:
        run_id = mlflow.create_run("0").info.run_id
    tracking.log_model_files(uri, run_id, model)
    return tracking.register(uri, name, run_id)


class Weight:
    """Takes a while to load and a tenth of a second to answer."""

    def __init__(self, place: str) -> None:
        self._weight = float(load_file(Path(place) / "model.safetensors")["weight"][0])
        time.sleep(0.5)
        if self._weight == BROKEN:
            raise ValueError("the weights are broken")

    def transcribe_batch(self, clips: Sequence[np.ndarray], **_: Any) -> list[Transcription]:
        time.sleep(0.1)
        if self._weight == DEAF and any(clip.any() for clip in clips):
            raise ValueError("it hears nothing")
        answer = f"{self._weight} {os.getpid()}"
        return [Transcription(answer, "Hebrew", len(clip) / 16000) for clip in clips]


def build(args: dict[str, Any]) -> Any:
    """The application over such models, for Serve's own deploying."""
    from serve.app import assemble
    from serve.options import parse

    return assemble(parse(args), Weight)
