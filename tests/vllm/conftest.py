"""Where vLLM is."""

from collections.abc import Mapping

import pytest

from tests.vllm.environment import ENVIRONMENT


@pytest.fixture(scope="module")
def vllm_environment(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, str]:
    python = request.config.getoption("--vllm-python")
    if not python:
        pytest.skip("no vLLM here; say where its environment lies with --vllm-python=FOLDER/bin/python")
    return {
        **ENVIRONMENT,
        "CASPI_HOME": str(tmp_path_factory.mktemp("home")),
        "CASPI_VLLM_PYTHON": python,
        "CASPI_VLLM_ARGUMENTS": '{"enforce_eager": true}',  # compiling for a CPU takes minutes
    }
