"""What every test can ask for."""

import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest


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
