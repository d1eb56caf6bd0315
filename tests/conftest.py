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
