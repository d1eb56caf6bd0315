"""An endpoint of two model replicas and two ingress replicas on a real Ray Serve, with a model that echoes."""

import asyncio
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from caspi.inference import serving
from tests.serve.deploying import deploy, deployed
from tests.soak import processes
from tests.soak.clips import Recording, speak
from tests.soak.crowd import Crowd, learn

NUM_REPLICAS = 2
BUILD = "tests.soak.echo:build"


@dataclass(frozen=True)
class Endpoint:
    """A running endpoint, and what it is known to answer."""

    base_url: str
    args: dict[str, Any]
    recordings: list[Recording]
    expected: dict[str, str]

    def crowd(self, **settings: Any) -> Crowd:
        return Crowd(self.base_url, self.recordings, self.expected, **settings)

    def exchange_the_model(self) -> None:
        """For one that answers the same, in the living replicas."""
        deploy(BUILD, self.args, user_config={"model": f"echo-{uuid.uuid4().hex[:6]}"})


Serve = Callable[..., AbstractContextManager[Endpoint]]


@pytest.fixture(scope="session")
def recordings() -> list[Recording]:
    """Sixteen recordings of one and of four seconds."""
    return [*speak("short", 8, duration_s=1.0), *speak("long", 8, duration_s=4.0)]


@pytest.fixture
def serve(ray_2_cpus: None, recordings: list[Recording], tmp_path: Path) -> Serve:
    """Serves for as long as a block runs. `seconds` says how slow the model is."""

    @contextmanager
    def endpoint(*, seconds: float, **options: Any) -> Iterator[Endpoint]:
        args = {
            "seconds": seconds,
            "model": "echo",
            "replicas": NUM_REPLICAS,
            "ingress_replicas": NUM_REPLICAS,
            "num_cpus": 0.25,
            "jobs_folder": str(tmp_path),
            "worker_env": {"PYTHONPATH": serving._python_path(Path.cwd())},
            **options,
        }
        with deployed(BUILD, args) as base_url:
            processes.wait_for_replicas(processes.MODEL, NUM_REPLICAS)
            processes.wait_for_replicas(processes.INGRESS, NUM_REPLICAS)
            yield Endpoint(base_url, args, recordings, asyncio.run(learn(base_url, recordings, {})))

    return endpoint
