"""Ten times what the model can do, for a minute.

pytest -m soak tests/soak/test_overload.py -s
"""

import asyncio
import time

import httpx2 as httpx
import numpy as np
import pytest

from tests.soak import processes
from tests.soak.conftest import Endpoint, Serve
from tests.soak.crowd import Crowd, describe

pytestmark = [pytest.mark.soak, pytest.mark.timeout(600)]

DEADLINE_S = 10.0
MAX_IN_FLIGHT = 8


def test_ten_times_the_capacity_for_a_minute(serve: Serve) -> None:
    # Two models, each taking 1 s whatever it is given, of at most 8 s of audio: some eight requests a second. Eighty
    # clients ask, and a second after their answer again, as a refusal advises.
    with serve(
        seconds=1.0, request_timeout_s=DEADLINE_S, max_in_flight=MAX_IN_FLIGHT, max_batch_s=8, retry_after_s=1
    ) as endpoint:
        alone = endpoint.crowd(num_clients=1)
        asyncio.run(alone.run(until=time.monotonic() + 5))
        with processes.watching(every_s=0.5) as watch:
            crowd, health_s = asyncio.run(_overload(endpoint, duration_s=60))
        after = endpoint.crowd(num_clients=1)
        asyncio.run(after.run(until=time.monotonic() + 10))
    refused = np.array([each.took_s for each in crowd.answers if each.outcome.startswith("429")])
    admitted = np.array([each.took_s for each in crowd.answers if each.outcome == "right"])
    print(f"overloaded: {describe(crowd)}")
    print(f"429 within p50 {np.median(refused):.3f} s, p99 {np.quantile(refused, 0.99):.3f} s")
    print(f"/healthz p50 {np.median(health_s):.3f} s, p99 {np.quantile(health_s, 0.99):.3f} s")
    print(f"memory {watch.slope_mb_per_minute(after_s=10):+.1f} MB/min; after it: {describe(after)}")
    assert set(crowd.outcomes) <= {"right", "429 rate_limit_exceeded"}
    assert len(refused) > len(admitted), "this was no overload"
    assert admitted.max() <= DEADLINE_S
    assert set(after.outcomes) == {"right"}, "it did not recover"
    grown_mb = max(watch.memory_mb[-10:]) - max(watch.memory_mb[20:40])
    assert grown_mb < 50


async def _overload(endpoint: Endpoint, *, duration_s: float) -> tuple[Crowd, np.ndarray]:
    """The crowd, and how long `/healthz` took meanwhile."""
    until = time.monotonic() + duration_s
    crowd = endpoint.crowd(num_clients=80, pause_s=1.0)
    took_s: list[float] = []

    async def probe() -> None:
        async with httpx.AsyncClient(base_url=endpoint.base_url, timeout=30) as http:
            while time.monotonic() < until:
                began = time.monotonic()
                assert (await http.get("/healthz")).status_code == 200
                took_s.append(time.monotonic() - began)
                await asyncio.sleep(0.1)

    await asyncio.gather(crowd.run(until=until), probe())
    return crowd, np.array(took_s)
