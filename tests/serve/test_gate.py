"""The gate in front of /v1: keys and limits over HTTP, forms, pages of others, and what strangers are told."""

import asyncio
import io
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2 as httpx  # what the `openai` client brings
import numpy as np
import pytest
import soundfile

from caspi.inference.api_keys import add_key, hash_key
from serve.api import http_app
from serve.gate import JOBS, TRANSCRIPTIONS
from serve.metrics import Metrics
from serve.options import Options
from tests.serve.backends import Backend
from tests.speech import lay, spoken

FILES = {"file": ("speech.flac", spoken(1.0))}


@asynccontextmanager
async def connect(
    *,
    keys: tuple[str, ...] = (),
    base_url: str = "http://test",
    root_path: str = "",
    is_public: bool = False,
    **options: Any,
) -> AsyncIterator[httpx.AsyncClient]:
    app = http_app(
        Backend(),
        options=Options(model="double", **options),
        key_hashes=list(map(hash_key, keys)),
        page="",
        metrics=Metrics("test"),
        is_public=is_public,
    )
    transport = httpx.ASGITransport(app, root_path=root_path, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url=base_url) as client:
        yield client


def request(method: str, path: str, *, headers: dict[str, str] | None = None, **given: Any) -> httpx.Response:
    async def send() -> httpx.Response:
        sent = {name: given.pop(name) for name in ("files", "data", "content") if name in given}
        async with connect(**given) as client:
            return await client.request(method, path, headers=headers, **sent)

    return asyncio.run(send())


def test_limits_of_a_key_are_told_and_kept(tmp_path: Path) -> None:
    file = tmp_path / "keys.yaml"
    key = add_key(file, "newsroom", requests_per_minute=2, audio_s_per_minute=6)

    async def ask_thrice() -> list[httpx.Response]:
        async with connect(api_keys_file=file) as client:
            headers = {"Authorization": f"Bearer {key}"}
            return [await client.post(TRANSCRIPTIONS, files=FILES, headers=headers) for _ in range(3)]

    first, second, third = asyncio.run(ask_thrice())
    assert (first.status_code, second.status_code, third.status_code) == (200, 200, 429)
    assert first.headers["x-ratelimit-limit-requests"] == "2"
    assert first.headers["x-ratelimit-remaining-requests"] == "1"
    assert first.headers["x-ratelimit-remaining-audio-seconds"] == "5"
    assert re.fullmatch(r"\d+m?s|\d+m\d+s", third.headers["x-ratelimit-reset-requests"])
    assert 1 <= int(third.headers["retry-after"]) <= 30
    assert third.json()["error"]["type"] == "rate_limit_error"


def test_a_recording_that_ends_badly_is_charged_for_what_was_heard(tmp_path: Path) -> None:
    file = tmp_path / "keys.yaml"
    key = add_key(file, "newsroom", audio_s_per_minute=10)
    sentences = lay(120.0, *((start_s, start_s + 6.0) for start_s in range(1, 110, 10)))
    samples = np.append(sentences, np.float32(np.nan))
    wav = io.BytesIO()
    soundfile.write(wav, samples, 16000, format="WAV", subtype="FLOAT")

    async def ask_twice() -> list[httpx.Response]:
        async with connect(api_keys_file=file) as client:
            headers, data = {"Authorization": f"Bearer {key}"}, {"stream": "true"}
            files = {"file": ("speech.wav", wav.getvalue())}
            return [await client.post(TRANSCRIPTIONS, files=files, data=data, headers=headers) for _ in range(2)]

    first, second = asyncio.run(ask_twice())
    assert "transcript.text.delta" in first.text and '"error"' in first.text
    assert second.status_code == 429


@pytest.mark.parametrize("path", ["/v1/models", TRANSCRIPTIONS, JOBS, "/metrics"])
def test_under_a_prefix_keys_are_wanted_too(path: str) -> None:
    """Serve hands the application the whole path, and the prefix beside it."""
    method = "GET" if path in ("/v1/models", "/metrics") else "POST"
    answer = request(method, f"/asr{path}", root_path="/asr", keys=("a" * 20,), is_public=True)
    assert answer.status_code == 401


@pytest.mark.parametrize("strategy", ["[" * 60_000, '{"a":' * 60_000])
def test_a_field_that_is_nested_without_end_is_400(strategy: str) -> None:
    assert request("POST", TRANSCRIPTIONS, files=FILES, data={"chunking_strategy": strategy}).status_code == 400


def test_a_form_of_many_parts_is_refused() -> None:
    flood = b"".join(b'--x\r\nContent-Disposition: form-data; name="a%d"\r\n\r\n1\r\n' % i for i in range(5000))
    headers = {"content-type": "multipart/form-data; boundary=x"}
    refusal = request("POST", TRANSCRIPTIONS, content=flood + b"--x--\r\n", headers=headers)
    assert refusal.status_code == 400 and "Too many fields" in refusal.json()["error"]["message"]


def test_many_files_and_huge_fields_are_refused() -> None:
    files = [("file", (f"{number}.wav", b"x")) for number in range(3)]
    assert request("POST", TRANSCRIPTIONS, files=files).status_code == 400
    assert request("POST", TRANSCRIPTIONS, files=FILES, data={"prompt": "x" * 100_000}).status_code == 400


@pytest.mark.parametrize(
    "content",
    [b"", b"--x", b"--x\r\n\r\n", b"\r\n" * 1000, b"--x\r\n" + b"a" * 10_000 + b": b\r\n\r\n", b"--x--\r\n"],
    ids=["nothing", "boundary", "no header", "line ends", "long header", "end"],
)
def test_a_broken_form_is_400(content: bytes) -> None:
    headers = {"content-type": "multipart/form-data; boundary=x"}
    assert request("POST", TRANSCRIPTIONS, content=content, headers=headers).status_code == 400


def test_metrics_want_a_key_where_others_can_reach_them() -> None:
    assert request("GET", "/metrics", keys=("secret",)).status_code == 200
    assert request("GET", "/metrics", keys=("secret",), is_public=True).status_code == 401
    shown = {"Authorization": "Bearer secret"}
    assert request("GET", "/metrics", keys=("secret",), is_public=True, headers=shown).status_code == 200
    for path in ("/healthz", "/readyz", "/", "/openapi.json"):
        assert request("GET", path, keys=("secret",), is_public=True).status_code == 200


def test_pages_of_others_may_read_nothing_unless_they_are_listed() -> None:
    origin = {"Origin": "https://app.example.org"}
    asked = {**origin, "Access-Control-Request-Method": "POST"}
    closed = request("OPTIONS", TRANSCRIPTIONS, keys=("secret",), headers=asked)
    assert "access-control-allow-origin" not in closed.headers
    allowed = {"cors_origins": ("https://app.example.org",), "keys": ("secret",)}
    preflight = request("OPTIONS", TRANSCRIPTIONS, headers=asked, **allowed)
    assert preflight.status_code == 200
    assert preflight.headers["access-control-allow-origin"] == "https://app.example.org"
    answer = request("GET", "/v1/models", headers={**origin, "Authorization": "Bearer secret"}, **allowed)
    assert answer.headers["access-control-allow-origin"] == "https://app.example.org"
    assert "x-ratelimit-remaining-requests" in answer.headers["access-control-expose-headers"]
    other = request("GET", "/v1/models", headers={"Origin": "https://evil.example"}, **allowed)
    assert "access-control-allow-origin" not in other.headers


def test_without_keys_a_page_of_others_cannot_even_send() -> None:
    foreign = request("POST", TRANSCRIPTIONS, files=FILES, headers={"Origin": "https://evil.example"})
    assert (foreign.status_code, foreign.json()["error"]["code"]) == (403, "untrusted_origin")
    own = request("POST", TRANSCRIPTIONS, files=FILES, headers={"Origin": "http://test"})
    assert own.status_code == 200


@pytest.mark.parametrize(
    ("base_url", "status"),
    [
        ("http://127.0.0.1:8000", 200),
        ("http://localhost:8000", 200),
        ("http://[::1]:8000", 200),
        ("http://gpu-box:8000", 200),
        ("http://rebound.evil.example:8000", 403),
        ("http://asr.intern.example", 200),
    ],
)
def test_without_keys_a_name_that_somebody_else_points_here_does_not_work(base_url: str, status: int) -> None:
    answer = request("GET", "/v1/models", base_url=base_url, trusted_hosts=("asr.intern.example",))
    assert answer.status_code == status


def test_every_answer_says_what_browsers_must_not_do() -> None:
    for path in ("/", "/v1/models", "/v1/nothing", "/healthz"):
        headers = request("GET", path).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert (headers.get("cache-control") == "no-store") == path.startswith("/v1/")


def test_a_websocket_under_v1_wants_a_key() -> None:
    sent: list[Any] = []

    async def open_socket(authorization: bytes) -> None:
        app = http_app(
            Backend(), options=Options(model="double"), key_hashes=[hash_key("secret")], page="", metrics=Metrics()
        )

        async def receive() -> Any:
            return {"type": "websocket.connect"}

        async def send(message: Any) -> None:
            sent.append(message)

        headers = [(b"authorization", authorization)]
        scope = {"type": "websocket", "path": "/v1/realtime", "headers": headers, "query_string": b""}
        await app(scope, receive, send)

    asyncio.run(open_socket(b"Bearer wrong"))
    assert sent == [{"type": "websocket.close", "code": 1008, "reason": "Incorrect API key."}]


def test_a_pause_within_an_upload_ends_it() -> None:
    async def stall() -> AsyncIterator[bytes]:
        yield b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'
        await asyncio.sleep(60)

    headers = {"content-type": "multipart/form-data; boundary=x"}
    answer = request("POST", TRANSCRIPTIONS, content=stall(), headers=headers, idle_timeout_s=0.2)
    assert (answer.status_code, answer.json()["error"]["code"]) == (408, "upload_timeout")


def test_a_client_that_does_not_read_its_answer_is_left() -> None:
    async def story() -> None:
        app = http_app(
            Backend(),
            options=Options(model="double", idle_timeout_s=0.2),
            key_hashes=[],
            page="",
            metrics=Metrics(),
        )
        body = httpx.Request("POST", "http://test", files=FILES)
        parts = [{"type": "http.request", "body": body.read(), "more_body": False}]

        async def receive() -> Any:
            return parts.pop() if parts else await asyncio.Event().wait()

        async def send(message: Any) -> None:
            await asyncio.Event().wait()

        headers = [(b"host", b"test"), (b"content-type", body.headers["content-type"].encode())]
        scope = {"type": "http", "method": "POST", "path": TRANSCRIPTIONS, "headers": headers, "query_string": b""}
        with pytest.raises(TimeoutError):
            await app({**scope, "http_version": "1.1", "scheme": "http", "server": ("test", 80)}, receive, send)

    asyncio.run(story())


def test_jobs_have_limits_of_their_own(tmp_path: Path) -> None:
    large = {"file": ("large.wav", b"\0" * 3 * 2**20)}
    limits = {"max_upload_mb": 1, "max_job_upload_mb": 2, "jobs_folder": str(tmp_path)}
    assert "larger than 1 MiB" in request("POST", TRANSCRIPTIONS, files=large, **limits).json()["error"]["message"]
    assert "larger than 2 MiB" in request("POST", JOBS, files=large, **limits).json()["error"]["message"]
