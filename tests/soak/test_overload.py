"""Ten times what the model can do, for a minute.

pytest -m soak tests/soak/test_overload.py -s
"""

import asyncio
import time

import numpy as np
import pytest

from tests.soak import probe, processes
from tests.soak.conftest import Serve
from tests.soak.crowd import describe

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
        crowd = endpoint.crowd(num_clients=80, pause_s=1.0)
        with processes.watching(every_s=0.5) as watch, probe.looking(endpoint.base_url, duration_s=60) as seen:
            asyncio.run(crowd.run(until=time.monotonic() + 60))
        after = endpoint.crowd(num_clients=1)
        asyncio.run(after.run(until=time.monotonic() + 10))
    admitted = np.array([each.took_s for each in crowd.answers if each.outcome == "right"])
    print(f"overloaded: {describe(crowd)}")
    print(f"another client saw {seen}")
    print(f"memory {watch.slope_mb_per_minute(after_s=10):+.1f} MB/min; after it: {describe(after)}")
    assert set(crowd.outcomes) <= {"right", "429 rate_limit_exceeded"}
    assert crowd.outcomes["429 rate_limit_exceeded"] > len(admitted), "this was no overload"
    assert admitted.max() <= DEADLINE_S
    assert set(after.outcomes) == {"right"}, "it did not recover"
    grown_mb = max(watch.memory_mb[-10:]) - max(watch.memory_mb[20:40])
    assert grown_mb < 50
