"""The endpoint with vLLM as its engine, whose processes are killed under load."""

import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import httpx2 as httpx
import psutil
import pytest

from caspi.inference import serving
from tests.serve.load import URL, Load
from tests.speech import spoken

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(1800)]

START_TIMEOUT_S = 600
SECONDS = 2.0
NUM_COPIES = 2


@pytest.fixture
def url(ray_2_cpus: None, vllm_environment: Mapping[str, str], toy_model: Path, tmp_path: Path) -> Iterator[str]:
    from serve.app import build

    options = {
        "model": str(toy_model),
        "engine": "vllm",
        "replicas": NUM_COPIES,
        "num_cpus": 0.5,
        "max_tokens_per_s": 3,
        "request_timeout_s": START_TIMEOUT_S,
        "jobs_folder": str(tmp_path),
        "worker_env": {"PYTHONPATH": serving._python_path(Path.cwd()), **vllm_environment},
    }
    port = serving._claim_port("127.0.0.1", 0)
    with serving.running(
        build(options),
        host="127.0.0.1",
        port=port,
        request_timeout_s=START_TIMEOUT_S,
        ready_timeout_s=START_TIMEOUT_S,
    ) as url:
        yield url
        left = [each for worker in workers() for each in (worker, *worker.children(recursive=True))]
    assert not psutil.wait_procs(left, timeout=30)[1], "an endpoint that ended has left vLLM behind"


def test_killing_vllm_under_load_loses_no_request(url: str):
    await_copies(NUM_COPIES)
    answer = httpx.post(url + URL, files={"file": ("speech.flac", spoken(SECONDS))}, timeout=START_TIMEOUT_S)
    expected = answer.json()["text"]
    with Load(url, num_clients=4, seconds_of_audio=SECONDS) as load:
        for _ in range(2):  # each copy in its turn: the second is the one that lived
            load.wait_until_good(8, timeout_s=START_TIMEOUT_S)
            oldest = min(await_copies(NUM_COPIES), key=psutil.Process.create_time)
            family = [oldest, *oldest.children(recursive=True)]
            oldest.kill()
            assert not psutil.wait_procs(family, timeout=30)[1]
            await_copies(NUM_COPIES, without=oldest)
        load.wait_until_good(8, timeout_s=START_TIMEOUT_S)
    assert load.failures == []
    assert set(load.texts) == {expected}
    print(f"{load.num_good} answers, the slowest after {max(load.latencies_s):.1f} s")


def await_copies(number: int, *, without: psutil.Process | None = None) -> list[psutil.Process]:
    """The processes that vLLM runs in, once there are so many."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while len(copies := [each for each in workers() if each != without]) < number:
        assert time.monotonic() < deadline, f"{len(copies)} of {number} vLLM processes"
        time.sleep(0.2)
    return copies


def workers() -> list[psutil.Process]:
    below = psutil.Process().children(recursive=True)
    return [each for each in below if each.is_running() and "vllm_worker.py" in command_line(each)]


def command_line(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""
