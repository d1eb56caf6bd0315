"""The HTTP side alone, over a backend that a test controls: limits, deadlines and overload."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx2 as httpx  # what the `openai` client brings
import pytest

from caspi.inference.api_keys import hash_key
from caspi.inference.transcription import Transcription
from serve.api import http_app
from serve.batching import Clip
from serve.deadline import by_deadline
from serve.metrics import Metrics
from serve.options import Options
from serve.versions import ServedModel, State
from tests.speech import spoken

FILES = {"file": ("speech.flac", spoken(1.0))}
URL = "/v1/audio/transcriptions"


class Backend:
    """Answers after `seconds`."""

    def __init__(self, *, seconds: float = 0, ready: bool = True) -> None:
        self._seconds = seconds
        self._ready = ready

    async def transcribe(self, clip: Clip, *, deadline: float) -> Transcription:
        await by_deadline(asyncio.sleep(self._seconds), deadline)
        return Transcription("שלום", "Hebrew", clip.duration_s)

    async def describe(self) -> list[State]:
        return [State(ServedModel("he", "7", "abc", "/models/abc"), since=0)] if self._ready else []


@asynccontextmanager
async def connect(backend: Backend, *, keys: tuple[str, ...] = (), **options: Any) -> AsyncIterator[httpx.AsyncClient]:
    hashes = [hash_key(key) for key in keys]
    app = http_app(
        backend, options=Options(model="double", **options), key_hashes=hashes, page="", metrics=Metrics("test")
    )
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        yield client


def test_a_full_server_says_429_at_once_and_when_to_come_back() -> None:
    async def overload() -> list[httpx.Response]:
        async with connect(Backend(seconds=0.5), max_in_flight=2, retry_after_s=7) as client:
            return await asyncio.gather(*(client.post(URL, files=FILES) for _ in range(5)))

    answers = asyncio.run(overload())
    assert sorted(answer.status_code for answer in answers) == [200, 200, 429, 429, 429]
    refusal = next(answer for answer in answers if answer.status_code == 429)
    assert refusal.headers["retry-after"] == "7"
    assert refusal.json()["error"]["type"] == "rate_limit_error"
    assert refusal.elapsed.total_seconds() < 0.25


def test_room_returns_when_requests_end() -> None:
    async def one_after_another() -> list[int]:
        async with connect(Backend(), max_in_flight=1) as client:
            return [(await client.post(URL, files=FILES)).status_code for _ in range(3)]

    assert asyncio.run(one_after_another()) == [200, 200, 200]


def test_no_request_outlives_its_deadline() -> None:
    async def wait() -> httpx.Response:
        async with connect(Backend(seconds=60), request_timeout_s=0.3) as client:
            return await client.post(URL, files=FILES)

    started = time.monotonic()
    answer = asyncio.run(wait())
    assert (answer.status_code, answer.json()["error"]["code"]) == (504, "deadline_exceeded")
    assert time.monotonic() - started < 5


def test_a_slow_upload_ends_at_the_deadline() -> None:
    async def trickle() -> AsyncIterator[bytes]:
        yield b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'
        while True:
            yield b"\0"
            await asyncio.sleep(0.05)

    async def upload() -> httpx.Response:
        async with connect(Backend(), request_timeout_s=0.3) as client:
            headers = {"content-type": "multipart/form-data; boundary=x"}
            return await client.post(URL, content=trickle(), headers=headers)

    assert asyncio.run(upload()).status_code == 408


def test_an_upload_that_hides_its_length_is_stopped_at_the_limit() -> None:
    num_sent = 0

    async def flood() -> AsyncIterator[bytes]:
        nonlocal num_sent
        yield b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'
        while True:
            num_sent += 2**16
            yield b"\0" * 2**16

    async def upload() -> httpx.Response:
        async with connect(Backend(), max_upload_mb=1) as client:
            headers = {"content-type": "multipart/form-data; boundary=x"}
            return await client.post(URL, content=flood(), headers=headers)

    assert asyncio.run(upload()).status_code == 413
    assert num_sent <= 2 * 2**20


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        ({"method": "POST", "url": URL, "json": {"file": "x"}}, 415),
        ({"method": "GET", "url": URL}, 405),
        ({"method": "GET", "url": "/v1/embeddings"}, 404),
        ({"method": "POST", "url": URL, "data": {"temperature": "warm"}, "files": FILES}, 400),
        ({"method": "POST", "url": URL, "data": {"file": "text"}, "files": {"x": b""}}, 400),
    ],
    ids=["json", "get", "elsewhere", "temperature", "file as text"],
)
def test_every_refusal_has_openais_body(request_: dict[str, Any], status: int) -> None:
    async def send() -> httpx.Response:
        async with connect(Backend()) as client:
            return await client.request(**request_)

    answer = asyncio.run(send())
    assert answer.status_code == status
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}


def test_without_a_key_nothing_under_v1_answers() -> None:
    async def visit(path: str) -> int:
        async with connect(Backend(), keys=("secret",)) as client:
            return (await client.get(path)).status_code

    assert asyncio.run(visit("/v1/models")) == 401
    assert asyncio.run(visit("/healthz")) == 200


def test_not_ready_is_503() -> None:
    async def visit() -> int:
        async with connect(Backend(ready=False)) as client:
            return (await client.get("/readyz")).status_code

    assert asyncio.run(visit()) == 503
