"""An address open to the network, by the way that `serve deploy` takes: the application alone can refuse there."""

import pytest

from caspi.errors import ServingError
from caspi.inference import serving
from tests.serve.conftest import TIMEOUT_S, build_with, double


def test_the_ingress_refuses_an_open_address_without_keys(ray_2_cpus: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CASPI_API_KEYS", raising=False)
    port = serving._claim_port("0.0.0.0", 0)
    with (
        pytest.raises(ServingError, match=r"0\.0\.0\.0 is open to the network"),
        serving.running(
            build_with(double()), host="0.0.0.0", port=port, request_timeout_s=TIMEOUT_S, ready_timeout_s=120
        ),
    ):
        pass
