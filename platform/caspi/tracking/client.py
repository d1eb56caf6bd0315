"""One way to talk to MLflow: quiet, bounded in time, with our errors."""

import contextlib
import logging
import os
import threading
from collections.abc import Iterator, Mapping
from typing import Any

from caspi import settings
from caspi.errors import TrackingError

# What a user set wins. MLflow's own default is 7 retries of 120 s: a dead server would stall a command for minutes.
BOUNDS = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3", "MLFLOW_HTTP_REQUEST_TIMEOUT": "60"}
QUIET = {
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}

_importing = threading.Lock()


@contextlib.contextmanager
def client(uri: str) -> Iterator[Any]:
    """An `MlflowClient` of the server at `uri`.

    Raises:
        TrackingError: the server does not answer, or refuses.
    """
    with environment(BOUNDS | QUIET, keep=True):
        from mlflow import MlflowClient  # seconds to import
        from mlflow.exceptions import MlflowException
        from requests import RequestException

        if not settings.read().verbose:
            logging.getLogger("mlflow").setLevel(logging.ERROR)
        try:
            yield MlflowClient(tracking_uri=uri, registry_uri=uri)
        except (MlflowException, RequestException) as error:
            raise TrackingError(f"MLflow at {uri}: {error}") from error


@contextlib.contextmanager
def quiet_import() -> Iterator[None]:
    """For importing MLflow in side threads, one at a time: the environment, which all share, is changed meanwhile."""
    with _importing, environment(QUIET, keep=True):
        yield


@contextlib.contextmanager
def environment(values: Mapping[str, str], *, keep: bool = False) -> Iterator[None]:
    """Set environment variables for the block and put back what was there. `keep` leaves those that are set already."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update({name: value for name, value in values.items() if not (keep and before[name])})
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
