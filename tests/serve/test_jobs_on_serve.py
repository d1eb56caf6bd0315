"""Asynchronous work on a real Ray Serve whose ingress dies in the middle of it, kept in SQLite and in PostgreSQL."""

import os
import signal
import time
import urllib.error
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx2 as httpx  # what the `openai` client brings
import numpy as np
import pytest

from serve.gate import JOBS
from serve.job_store import JobStore
from tests.serve import postgres
from tests.serve.conftest import build_with, run
from tests.speech import spoken

FILES = {"file": ("meeting.flac", spoken(2.0))}
PATIENCE_S = 120


def slow_double() -> type:
    """A transcriber that takes its time. Made here, so that Ray ships the class itself to the replica."""

    class Double:
        def transcribe_batch(self, clips: Sequence[np.ndarray], **given: Any) -> list[Any]:
            from caspi.inference.transcription import Transcription

            time.sleep(3.0 if "slow" in given["prompts"] else 0.05)
            return [Transcription("שלום", "Hebrew", len(clip) / 16000) for clip in clips]

    return Double


@pytest.fixture(params=["sqlite", "postgres"])
def jobs_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    with ExitStack() as stack:
        if request.param == "sqlite":
            yield f"sqlite:///{tmp_path}/jobs.db"
        else:
            yield stack.enter_context(postgres.server())


def until(look: Callable[[], Any]) -> Any:
    """What `look` finds at last. An endpoint without its ingress answers nothing useful meanwhile."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        try:
            if found := look():
                return found
        except (httpx.HTTPError, urllib.error.URLError, KeyError, ValueError):
            pass
        time.sleep(0.05)
    raise AssertionError("nothing came of it")


def test_a_job_survives_the_kill_of_the_ingress_that_ran_it(ray_2_cpus: None, tmp_path: Path, jobs_url: str) -> None:
    application = build_with(
        slow_double(), jobs_folder=str(tmp_path / "jobs"), jobs_url=jobs_url, job_lease_s=2.0, num_cpus=0.5
    )
    store = JobStore(jobs_url)
    with run(application) as url, httpx.Client(base_url=url, timeout=30) as client:
        jobs = [client.post(JOBS, files=FILES, data={"prompt": "slow"}).json()["id"] for _ in range(2)]

        def holder() -> str | None:
            found = store.get(jobs[0], "anonymous")
            return found and found.lease_holder

        victim = int(until(holder).split(":")[1])
        os.kill(victim, signal.SIGKILL)
        for job in jobs:
            until(lambda job=job: client.get(f"{JOBS}/{job}").json()["status"] == "completed")  # type: ignore[misc]
            assert client.get(f"{JOBS}/{job}/result").json()["text"] == "שלום"
        first = store.get(jobs[0], "anonymous")
        assert first is not None and first.attempts == 2
        assert store.count_active() == 0
    store.close()
