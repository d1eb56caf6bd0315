"""A model by its name, looked up once for everybody who loads it."""

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from caspi import settings, tracking
from caspi.tracking.model_uri import pin_version


@dataclass(frozen=True, slots=True)
class Reachable:
    """A model as actors find it."""

    model: str
    """Its name; of `models:/NAME@alias` the version that the alias meant when it was looked up."""

    files: str
    """A folder, or the name where that is a Hub id."""

    environment: Mapping[str, str]
    """What actors need to know to find it in MLflow."""


@contextlib.contextmanager
def reachable(model: str, *, needed: bool) -> Iterator[Reachable]:
    """Look a model up once for all who load it. One in MLflow is within their reach until the block ends."""
    if not needed or not tracking.is_uri(model):
        yield Reachable(model, model, {})
        return
    with tracking.server() as uri:
        pinned = pin_version(model, uri)
        folder = tracking.resolve(pinned, uri=uri)  # fails here, once; on this machine the actors find it downloaded
        yield Reachable(pinned, str(folder), {"MLFLOW_TRACKING_URI": uri, "CASPI_HOME": str(settings.read().home)})
