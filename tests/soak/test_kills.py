"""Processes of the endpoint are killed while requests are with them.

pytest -m slow tests/soak/test_kills.py -s
"""

import asyncio
import time
from collections.abc import Sequence

import httpx2 as httpx
import openai
import pytest

from tests.soak import processes
from tests.soak.clips import speak
from tests.soak.conftest import NUM_REPLICAS, Endpoint, Serve
from tests.soak.crowd import Answer, Crowd, describe
from tests.soak.echo import POISON_LEVEL

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

AT_ONCE = 10


def in_flight_while_killed(endpoint: Endpoint, deployment: str, *, rounds: int, retries: int = 0) -> Crowd:
    """Ten requests at a time, and a replica of a deployment killed while all of them are inside."""
    crowd = endpoint.crowd(retries=retries)
    for _ in range(rounds):
        (victim, *_rest) = processes.wait_for_replicas(deployment, NUM_REPLICAS)
        wait_until_ready(endpoint)
        crowd.answers += asyncio.run(_round(crowd, victim))
    return crowd


async def _round(crowd: Crowd, victim: int) -> Sequence[Answer]:
    async with httpx.AsyncClient(base_url=crowd.base_url, timeout=90) as http:
        asked = [asyncio.create_task(crowd.ask(http, crowd.recordings[place])) for place in range(AT_ONCE)]
        await asyncio.sleep(0.6)
        assert not any(request.done() for request in asked), "a forward pass takes longer than this"
        processes.kill(victim)
        return await asyncio.gather(*asked)


def wait_until_ready(endpoint: Endpoint, *, timeout_s: float = 60) -> None:
    """Until every replica answers: as many answers in a row as surely meet all of them."""
    deadline = time.monotonic() + timeout_s
    in_a_row = 0
    while in_a_row < 8:
        assert time.monotonic() < deadline, "the endpoint does not come back"
        try:
            in_a_row = in_a_row + 1 if httpx.get(f"{endpoint.base_url}/readyz", timeout=10).status_code == 200 else 0
        except httpx.TransportError:
            in_a_row = 0
        time.sleep(0.05)


def test_twenty_killed_models_lose_none_of_200_requests(serve: Serve) -> None:
    with serve(seconds=1.0) as endpoint:
        crowd = in_flight_while_killed(endpoint, processes.MODEL, rounds=20)
    print(f"20 model replicas killed, {describe(crowd)}")
    assert len(crowd.answers) == 200
    assert crowd.outcomes == {"right": 200}


def test_a_killed_ingress_loses_its_own_connections_and_no_other(serve: Serve) -> None:
    with serve(seconds=1.0) as endpoint:
        plain = in_flight_while_killed(endpoint, processes.INGRESS, rounds=5)
        retrying = in_flight_while_killed(endpoint, processes.INGRESS, rounds=5, retries=2)
        through_openai = asyncio.run(_ask_with_openai(endpoint))
    print(f"5 ingress replicas killed, without retries: {describe(plain)}")
    print(f"5 ingress replicas killed, clients retry twice: {describe(retrying)}")
    lost = sum(count for outcome, count in plain.outcomes.items() if outcome != "right")
    assert plain.outcomes["wrong"] == 0
    assert lost <= 5 * AT_ONCE, "what the other process held was lost too"
    assert retrying.outcomes["wrong"] == 0
    assert through_openai == [endpoint.expected[each.name] for each in endpoint.recordings[:AT_ONCE]]


async def _ask_with_openai(endpoint: Endpoint) -> list[str]:
    """The texts, by the official client as it comes: it repeats twice what breaks or is answered 5xx."""
    async with openai.AsyncOpenAI(base_url=f"{endpoint.base_url}/v1", api_key="none", timeout=90) as client:
        asked = [
            asyncio.create_task(client.audio.transcriptions.create(file=each.upload, model="caspi"))
            for each in endpoint.recordings[:AT_ONCE]
        ]
        await asyncio.sleep(0.6)
        processes.kill(processes.replicas(processes.INGRESS)[0])
        return [answer.text for answer in await asyncio.gather(*asked)]


def test_a_poisoned_clip_kills_two_models_and_is_refused_from_then_on(serve: Serve) -> None:
    (poison,) = speak("poison", 1, duration_s=2.0, level=1.0)
    assert POISON_LEVEL < 1
    with serve(seconds=0.1) as endpoint:
        before = set(processes.wait_for_replicas(processes.MODEL, NUM_REPLICAS))
        crowd = endpoint.crowd()
        with httpx.Client(base_url=endpoint.base_url, timeout=120) as http:
            first = http.post("/v1/audio/transcriptions", files={"file": poison.upload})
            wait_until_ready(endpoint)
            after = set(processes.wait_for_replicas(processes.MODEL, NUM_REPLICAS))
            again = [http.post("/v1/audio/transcriptions", files={"file": poison.upload}) for _ in range(4)]
            assert set(processes.replicas(processes.MODEL)) == after, "a known poison killed again"
        asyncio.run(crowd.run(until=time.monotonic() + 3))
    assert first.status_code == 422, first.text
    assert len(after - before) <= 2
    assert [answer.status_code for answer in again] == [422] * 4
    assert set(crowd.outcomes) == {"right"}
