"""Replicas that die: by whom, whose requests notice, and the clip that is to blame."""

import json
import os
import random
import signal
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest
import ray

from caspi import audio
from tests.serve.conftest import build_with, run
from tests.serve.load import Load
from tests.speech import spoken


def mortal_double() -> type:
    """A transcriber that a clip with the prompt "poison" kills, and that writes its process id into DEATHS_DIR/pids."""

    class Mortal:
        def __init__(self) -> None:
            (Path(os.environ["DEATHS_DIR"]) / "pids" / str(os.getpid())).touch()

        def transcribe_batch(
            self, clips: Sequence[np.ndarray], *, prompts: Sequence[str] | None = None, **_: Any
        ) -> list[Any]:
            from caspi.inference.transcription import Transcription

            prompts = prompts or [""] * len(clips)
            time.sleep(0.2)
            if "poison" in prompts:
                (Path(os.environ["DEATHS_DIR"]) / "deaths" / str(os.getpid())).touch()
                os.kill(os.getpid(), signal.SIGKILL)
            told = [json.dumps({"pid": os.getpid(), "prompt": prompt}) for prompt in prompts]
            return [
                Transcription(text, "Hebrew", len(clip) / audio.SAMPLE_RATE)
                for text, clip in zip(told, clips, strict=True)
            ]

    return Mortal


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("deaths")
    (folder / "pids").mkdir()
    (folder / "deaths").mkdir()
    return folder


@pytest.fixture(scope="module")
def url(ray_2_cpus: None, folder: Path) -> Iterator[str]:
    from caspi.inference import serving

    worker_env = {"PYTHONPATH": serving._python_path(Path.cwd()), "DEATHS_DIR": str(folder)}
    application = build_with(
        mortal_double(), replicas=2, ingress_replicas=2, num_cpus=0.2, worker_env=worker_env, request_timeout_s=150
    )
    with run(application, request_timeout_s=150) as url:
        yield url


def ask(url: str, clip: bytes, prompt: str) -> dict[str, Any]:
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0, timeout=180)
    answer = client.audio.transcriptions.create(
        file=("speech.flac", clip), model="caspi", response_format="json", prompt=prompt
    )
    return dict(json.loads(answer.text))


def test_a_poisoned_clip_ends_two_replicas_and_is_refused_while_its_neighbours_are_answered(
    url: str, folder: Path
) -> None:
    clip = spoken(1.0)
    with ThreadPoolExecutor(9) as pool:
        neighbours = [pool.submit(ask, url, clip, f"innocent {n}") for n in range(8)]
        poison = pool.submit(ask, url, clip, "poison")
        with pytest.raises(openai.UnprocessableEntityError) as refusal:
            poison.result()
        answers = [neighbour.result() for neighbour in neighbours]
    assert [answer["prompt"] for answer in answers] == [f"innocent {n}" for n in range(8)]
    assert (refusal.value.code, refusal.value.param) == ("poisoned_audio", "file")
    assert len(list((folder / "deaths").iterdir())) == 2

    # Known from now on, to every ingress: connections of a new client spread over both.
    time.sleep(3)
    for _ in range(6):
        with pytest.raises(openai.UnprocessableEntityError):
            ask(url, clip, "poison")
    assert len(list((folder / "deaths").iterdir())) == 2
    assert ask(url, clip, "the same audio, and harmless")["prompt"] == "the same audio, and harmless"


def test_killing_model_replicas_under_load_loses_no_request(url: str, folder: Path) -> None:
    dice = random.Random(0)
    with Load(url, num_clients=8, seconds_of_audio=1.0) as load:
        for _ in range(4):
            load.wait_until_good(20)
            os.kill(dice.choice(living(folder)), signal.SIGKILL)
        load.wait_until_good(20)
    assert load.failures == []


def living(folder: Path) -> list[int]:
    return [int(path.name) for path in (folder / "pids").iterdir() if is_alive(int(path.name))]


def is_alive(pid: int) -> bool:
    try:
        return "zombie" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def test_no_log_holds_what_was_said_or_asked(url: str) -> None:
    """Transcripts, prompts and file names, after answers, refusals and deaths."""
    secret = "a name that nobody may read"
    assert ask(url, spoken(1.0), secret)["prompt"] == secret
    logs = Path(ray._private.worker.global_worker.node.get_logs_dir_path())
    written = {path: path.read_text(errors="replace") for path in logs.rglob("*") if path.is_file()}
    requests = [text for path, text in written.items() if path.name.startswith("replica_caspi_Ingress")]
    assert any('"path": "/v1/audio/transcriptions"' in text for text in requests)
    for said in (secret, "innocent", "speech.flac"):
        assert [path.name for path, text in written.items() if said in text] == []
