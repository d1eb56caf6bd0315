"""What every test can ask for."""

import logging
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.object_store import Proxy

# Ray makes its workers give way to everything else on a machine (niceness 15): beside a test that computes in its own
# process they would hardly run at all, and what waits for them would take ten times as long. Before any Ray starts.
os.environ.setdefault("RAY_worker_niceness", "0")


@pytest.fixture(scope="session")
def ray_2_cpus() -> Iterator[None]:
    """One local Ray with two logical CPUs, shared by all tests that need no more."""
    import ray
    import ray.data  # before its loggers are quieted: importing it sets their levels

    from caspi.ray_session import tame_logs

    ray.init(
        address="local",
        num_cpus=2,
        object_store_memory=150 * 2**20,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
    )
    tame_logs()
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def material(request: pytest.FixtureRequest) -> Callable[[str], Path]:
    """Where a folder of test material lies that the project does not ship, such as real recordings.

    Named by `--material=FOLDER`, else looked for in a `data` folder beside the repository. Tests that want what is not
    there skip, and say so.
    """

    def find(name: str) -> Path:
        root: Path = request.config.rootpath
        given = request.config.getoption("--material")
        places = [Path(given) / name] if given else sorted(root.parent.glob(f"*/data/{name}"))
        for place in places:
            if place.is_dir():
                return place
        pytest.skip(f"no {name} here; say where it lies with --material=FOLDER")

    return find


@pytest.fixture(scope="session")
def toy_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real Qwen3-ASR of toy size that has learned nothing: it loads, runs and answers with noise."""
    from caspi.model import Loaded, build_toy
    from caspi.recipe.sections import Toy

    folder = tmp_path_factory.mktemp("toy") / "model"
    Loaded.wrap(*build_toy(Toy(), texts=["שלום עולם", "מה שלומך היום"], language="Hebrew", seed=0)).save(folder)
    return folder


@pytest.fixture(scope="session")
def s3_port() -> Iterator[int]:
    """A server of the S3 protocol on this machine."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    yield server.get_host_and_port()[1]
    server.stop()


@pytest.fixture(scope="session")
def s3_client(s3_port: int) -> Any:
    import boto3

    return boto3.client(
        "s3",
        endpoint_url=f"http://127.0.0.1:{s3_port}",
        region_name="us-east-1",
        aws_access_key_id="x",
        aws_secret_access_key="y",
    )


@pytest.fixture
def bucket(s3_client: Any, s3_port: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A bucket of its own for each test, and the environment that leads there."""
    from caspi.corpus.sources import asking

    for name, value in (("AWS_ACCESS_KEY_ID", "x"), ("AWS_SECRET_ACCESS_KEY", "y"), ("AWS_REGION", "us-east-1")):
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{s3_port}")
    monkeypatch.setattr(asking, "_FIRST_PAUSE_S", 0.01)
    s3_client.create_bucket(Bucket="speech")
    yield "speech"
    for page in s3_client.get_paginator("list_objects_v2").paginate(Bucket="speech"):
        for found in page.get("Contents", []):
            s3_client.delete_object(Bucket="speech", Key=found["Key"])
    s3_client.delete_bucket(Bucket="speech")


@pytest.fixture
def proxy(bucket: str, s3_port: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """Between that server and whoever reads from it."""
    proxy = Proxy(s3_port)
    threading.Thread(target=proxy.serve_forever, daemon=True).start()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{proxy.server_address[1]}")
    yield proxy
    proxy.shutdown()
    proxy.server_close()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest first, so that at the end no worker waits for another: the soak, then whole training runs."""
    items.sort(key=lambda item: ("soak" not in item.path.parts, "training" not in item.path.parts))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--vllm-python",
        help="the interpreter of an environment with vLLM, as `python -m tests.vllm.environment FOLDER` makes it",
    )
    parser.addoption(
        "--material",
        help="a folder with qwen3-asr-tokenizer/ (the released files), speech/yesno/ and speech/fsdd/ (manifest.jsonl "
        "and audio), kuberay/ (ray.io_*.yaml, KubeRay's CRDs), or some of them",
    )
