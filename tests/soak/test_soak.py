"""The endpoint under load and in trouble for a long time. Three minutes with every run of the tests, thirty on demand.

pytest -m soak tests/soak/test_soak.py -s
"""

import asyncio
import re
import threading
import time

import pytest

from tests.soak import processes
from tests.soak.chaos import Chaos
from tests.soak.conftest import NUM_REPLICAS, Serve
from tests.soak.crowd import describe

# What a client may be told while replicas die under it. All of them say so in OpenAI's form.
DOCUMENTED = re.compile(r"right|429 rate_limit_exceeded|503 (model_died|model_unavailable|overloaded)")


@pytest.mark.timeout(600)
def test_three_minutes_of_trouble(serve: Serve) -> None:
    soak(serve, duration_s=180, every_s=6, warm_up_s=60, max_slope_mb=None)


@pytest.mark.soak
@pytest.mark.timeout(2700)
def test_half_an_hour_of_trouble(serve: Serve) -> None:
    soak(serve, duration_s=1800, every_s=15, warm_up_s=300, max_slope_mb=1.0)


def soak(serve: Serve, *, duration_s: float, every_s: float, warm_up_s: float, max_slope_mb: float | None) -> None:
    """Every answer is right or a refusal that the documentation names; memory and descriptors stay.

    Clients repeat what breaks, as OpenAI's does: an ingress replica that dies takes its connections with it.
    """
    with serve(seconds=0.1) as endpoint, processes.watching() as watch:
        crowd = endpoint.crowd(num_clients=6, pause_s=0.1, retries=2)
        until = time.monotonic() + duration_s
        chaos = Chaos(
            endpoint.base_url, endpoint.recordings, num_replicas=NUM_REPLICAS, extra=[endpoint.exchange_the_model]
        )
        trouble = threading.Thread(target=chaos.run, kwargs={"until": until - 15, "every_s": every_s})
        trouble.start()
        asyncio.run(crowd.run(until=until))
        trouble.join()
    slope_mb = watch.slope_mb_per_minute(after_s=warm_up_s)
    descriptors = watch.descriptor_slope_per_minute(after_s=warm_up_s)
    print(f"{duration_s / 60:.0f} minutes, {chaos.done.total()} events {dict(chaos.done)}: {describe(crowd)}")
    print(f"garbage was answered {dict(chaos.refusals)}")
    print(f"memory {slope_mb:+.2f} MB/min of {watch.memory_mb[-1]:.0f} MB, descriptors {descriptors:+.2f}/min")
    print(f"of it, MB/min: {watch.slopes_by_kind(after_s=warm_up_s)}")
    undocumented = {outcome: count for outcome, count in crowd.outcomes.items() if not DOCUMENTED.fullmatch(outcome)}
    assert not undocumented
    assert crowd.outcomes["right"] > 0.9 * len(crowd.answers)
    assert chaos.refusals and all(status.startswith("4") for status in chaos.refusals)
    assert chaos.done.total() >= 0.8 * (duration_s - 15) / every_s
    if max_slope_mb is not None:  # three minutes of processes that start anew say nothing
        assert slope_mb < max_slope_mb
        assert descriptors < 1
