"""An endpoint of two model replicas and two ingress replicas on a real Ray Serve, with a model that echoes."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from tests.serve.conftest import build_with, run
from tests.soak import processes
from tests.soak.clips import Recording, echo, speak
from tests.soak.crowd import Crowd, learn

NUM_REPLICAS = 2


@dataclass(frozen=True)
class Endpoint:
    """A running endpoint, and what it is known to answer."""

    base_url: str
    recordings: list[Recording]
    expected: dict[str, str]

    def crowd(self, **settings: Any) -> Crowd:
        return Crowd(self.base_url, self.recordings, self.expected, **settings)


Serve = Callable[..., AbstractContextManager[Endpoint]]


@pytest.fixture(scope="session")
def recordings() -> list[Recording]:
    """Sixteen recordings of one to four seconds."""
    return [*speak("short", 8, words=2, seed=1), *speak("long", 8, words=6, seed=2)]


@pytest.fixture
def serve(ray_2_cpus: None, recordings: list[Recording]) -> Serve:
    """Serves for as long as a block runs. `seconds` and `seconds_per_audio_s` say how slow the model is."""

    @contextmanager
    def endpoint(*, seconds: float = 0.05, seconds_per_audio_s: float = 0.0, **options: Any) -> Iterator[Endpoint]:
        model = echo(seconds=seconds, seconds_per_audio_s=seconds_per_audio_s)
        settings = {"replicas": NUM_REPLICAS, "ingress_replicas": NUM_REPLICAS, "num_cpus": 0.25, **options}
        with run(build_with(model, **settings)) as base_url:
            processes.wait_for_replicas(processes.MODEL, settings["replicas"])
            processes.wait_for_replicas(processes.INGRESS, settings["ingress_replicas"])
            yield Endpoint(base_url, recordings, asyncio.run(learn(base_url, recordings, {})))

    return endpoint
