"""What every test can ask for."""

import logging
from collections.abc import Iterator

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


def pytest_addoption(parser: pytest.Parser) -> None:
    """Material that the project does not ship. Tests that want it skip, and say so, where it is not."""
    parser.addoption("--tokenizer", help="a folder with the released Qwen3-ASR tokenizer and processor files")
    parser.addoption("--speech", help="a folder with yesno/ and fsdd/, each holding a manifest.jsonl and its audio")
