"""The real application on a real Ray Serve on loopback, with a double for the model."""

import json
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest

from caspi import audio
from caspi.inference import serving

API_KEY = "correct-horse"
TIMEOUT_S = 60


@pytest.fixture(scope="module")  # not the session: a cluster has one Serve, and others start theirs
def base_url(ray_2_cpus: None) -> Iterator[str]:
    """The endpoint. Its model tells, as its text, what it was given."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CASPI_API_KEYS", f"{API_KEY},second-key")
        application = build_with(double(), max_upload_mb=1, max_audio_s=30, request_timeout_s=TIMEOUT_S)
    with run(application) as url:
        yield url


def build_with(load: Any, **options: Any) -> Any:
    """The application of `serve.app.build`, over another model."""
    from serve.app import assemble
    from serve.options import parse

    options.setdefault("jobs_folder", tempfile.mkdtemp(prefix="caspi-jobs-"))
    worker_env = {"PYTHONPATH": serving._python_path(Path.cwd())}
    return assemble(
        parse({"model": "double", "num_cpus": 0.5, "worker_env": worker_env, **options}), lambda place: load()
    )


@contextmanager
def run(application: Any, *, request_timeout_s: float = TIMEOUT_S) -> Iterator[str]:
    port = serving._claim_port("127.0.0.1", 0)
    with serving.running(
        application, host="127.0.0.1", port=port, request_timeout_s=request_timeout_s, ready_timeout_s=90
    ) as url:
        yield url


def double() -> type:
    """A transcriber that answers what it was asked. Made here, so that Ray ships the class itself to the replica."""

    class Double:
        def transcribe_batch(
            self,
            clips: Sequence[np.ndarray],
            *,
            languages: Sequence[str | None] | None = None,
            prompts: Sequence[str] | None = None,
        ) -> list[Any]:
            from caspi.inference.transcription import Transcription

            prompts, languages = prompts or [""] * len(clips), languages or [None] * len(clips)
            if "a bug" in prompts:
                raise ZeroDivisionError("a bug, with secrets in its message")
            time.sleep(1.0 if "slow" in prompts else 0.1)
            durations = [len(clip) / audio.SAMPLE_RATE for clip in clips]
            told = [
                {"pid": os.getpid(), "batch": len(clips), "language": language, "prompt": prompt}
                for language, prompt in zip(languages, prompts, strict=True)
            ]
            return [Transcription(json.dumps(t), "Hebrew", s) for t, s in zip(told, durations, strict=True)]

    return Double


@pytest.fixture
def client(base_url: str) -> openai.OpenAI:
    """The official client, without its own retries: they would hide our failures."""
    return openai.OpenAI(base_url=f"{base_url}/v1", api_key=API_KEY, max_retries=0, timeout=TIMEOUT_S + 30)
