"""What strangers may send: every field of the OpenAPI page with every kind of value, and audio that is nearly audio.

pytest -m slow tests/soak/test_fuzz.py -s
"""

import asyncio
from collections import Counter

import httpx2 as httpx
import numpy as np
import pytest
import schemathesis

from caspi import audio
from tests.audio.conftest import encode_as
from tests.serve.fuzzing import fuzz
from tests.soak import processes
from tests.soak.clips import Recording
from tests.soak.conftest import Endpoint, Serve
from tests.soak.crowd import URL

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

NUM_MUTATED = 5000
FORMATS = ("wav", "float", "mulaw", "flac", "mp3", "vorbis", "opus", "m4a", "webm", "adpcm")
AT_ONCE = 8


def test_5000_mutated_files_are_answered_and_harm_nothing(serve: Serve, recordings: list[Recording]) -> None:
    samples = audio.decode(recordings[0].encoded, source="speech").samples
    whole = {name: encode_as(samples, audio.SAMPLE_RATE, name) for name in FORMATS}
    with serve(seconds=0.0, can_die=False, max_audio_s=60) as endpoint:
        pids = set(processes.replicas(processes.MODEL) + processes.replicas(processes.INGRESS))
        asyncio.run(_send(endpoint, whole, first=0, count=500))  # imports, pools and caches
        with processes.watching(every_s=0.5) as watch:
            answers = asyncio.run(_send(endpoint, whole, first=500, count=NUM_MUTATED - 500))
        assert set(processes.replicas(processes.MODEL) + processes.replicas(processes.INGRESS)) == pids
    print(f"{NUM_MUTATED} mutated files: {dict(answers)}")
    print(f"memory from {np.median(watch.memory_mb[:10]):.0f} to {np.median(watch.memory_mb[-10:]):.0f} MB")
    assert not [answer for answer in answers if not answer.startswith(("200", "400", "413", "415", "422"))]
    assert np.median(watch.memory_mb[-10:]) - np.median(watch.memory_mb[:10]) < 100
    assert abs(np.median(watch.descriptors[-10:]) - np.median(watch.descriptors[:10])) < 20


async def _send(endpoint: Endpoint, whole: dict[str, bytes], *, first: int, count: int) -> Counter[str]:
    """How so many mutated files were answered."""
    answers: Counter[str] = Counter()
    numbers = iter(range(first, first + count))

    async def client(http: httpx.AsyncClient) -> None:
        for number in numbers:
            name = FORMATS[number % len(FORMATS)]
            mutated = mutate(whole[name], np.random.default_rng(number))
            try:
                response = await http.post(URL, files={"file": (f"{number}.{name}", mutated)})
            except httpx.TransportError as error:
                answers[f"{type(error).__name__} for number {number}, {name}"] += 1
                continue
            code = "" if response.status_code == 200 else response.json()["error"]["code"]
            answers[f"{response.status_code} {code}".strip()] += 1

    async with httpx.AsyncClient(base_url=endpoint.base_url, timeout=60) as http:
        await asyncio.gather(*(client(http) for _ in range(AT_ONCE)))
    return answers


def mutate(whole: bytes, random: np.random.Generator) -> bytes:
    """Bytes changed, most of them in the header; a stretch lost, doubled or filled; or the end cut off."""
    changed = bytearray(whole)
    for _ in range(random.integers(0, 8)):
        changed[random.integers(min(400, len(changed)))] = random.integers(256)
    for _ in range(random.integers(0, 8)):
        changed[random.integers(len(changed))] = random.integers(256)
    start, end = sorted(random.integers(0, len(changed), 2))
    match random.integers(5):
        case 0:
            return bytes(changed[:start])
        case 1:
            return bytes(changed[:start] + changed[end:])
        case 2:
            return bytes(changed[:end] + changed[start:])
        case 3:
            return bytes(changed[:start]) + random.bytes(end - start) + bytes(changed[end:])
    return bytes(changed)


def test_every_operation_of_the_openapi_page_keeps_to_it(serve: Serve, recordings: list[Recording]) -> None:
    with serve(seconds=0.0) as endpoint:
        schema = schemathesis.openapi.from_url(f"{endpoint.base_url}/openapi.json")
        pids = processes.replicas(processes.MODEL) + processes.replicas(processes.INGRESS)
        seen = fuzz(schema, recordings[0].encoded, max_examples=200, timeout=60)
        assert processes.replicas(processes.MODEL) + processes.replicas(processes.INGRESS) == pids
    for line, count in sorted(seen.items()):
        print(f"{count:5}  {line}")
    assert seen["POST /v1/audio/transcriptions 200"]
