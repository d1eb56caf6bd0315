"""Asynchronous work over a backend that a test controls: submit, poll, fetch, cancel, webhooks, other callers."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2 as httpx  # what the `openai` client brings
import openai
import pytest
from aiohttp import web

from caspi.inference.api_keys import hash_key
from caspi.inference.transcription import Transcription
from serve.api import http_app
from serve.batching import Clip
from serve.errors import ApiError
from serve.gate import JOBS
from serve.metrics import Metrics
from serve.options import Options
from tests.serve.backends import Backend
from tests.speech import spoken

FILES = {"file": ("meeting.flac", spoken(1.0))}
SECRET = "whsec_" + "c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0"
ENDED = ("completed", "failed", "cancelled", "expired")
PATIENCE_S = 30


class Gated(Backend):
    """Answers when `go` is set, with what `answer` says."""

    def __init__(self, answer: Callable[[Clip], Transcription] | None = None) -> None:
        self.go = asyncio.Event()
        self.go.set()
        self.begun = asyncio.Event()
        self.num_calls = 0
        self._answer = answer or (lambda clip: Transcription("שלום", "Hebrew", clip.duration_s))

    async def transcribe(self, clip: Clip, *, deadline: float) -> Transcription:
        self.num_calls += 1
        self.begun.set()
        await self.go.wait()
        return self._answer(clip)


@asynccontextmanager
async def connect(
    folder: Path, backend: Gated, *, keys: tuple[str, ...] = (), **options: Any
) -> AsyncIterator[httpx.AsyncClient]:
    """An ingress process over the jobs of `folder`."""
    given = {"model": "double", "jobs_folder": str(folder), "job_lease_s": 1.0, **options}
    hashes = [hash_key(key) for key in keys]
    app = http_app(backend, options=Options(**given), key_hashes=hashes, page="", metrics=Metrics("test"))
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://test", timeout=PATIENCE_S) as client,
    ):
        yield client


async def submit(client: httpx.AsyncClient, **given: Any) -> dict[str, Any]:
    answer = await client.post(JOBS, **{"files": FILES, **given})
    assert answer.status_code == 202, answer.text
    assert answer.headers["location"] == f"{JOBS}/{answer.json()['id']}"
    return answer.json()


async def until(condition: Callable[[], Awaitable[Any]]) -> Any:
    async with asyncio.timeout(PATIENCE_S):
        while not (found := await condition()):
            await asyncio.sleep(0.02)
        return found


async def ended(client: httpx.AsyncClient, job: dict[str, Any]) -> dict[str, Any]:
    async def look() -> dict[str, Any] | None:
        found = (await client.get(f"{JOBS}/{job['id']}")).json()
        return found if found["status"] in ENDED else None

    return await until(look)


def test_a_job_is_done_and_its_result_comes_in_every_format(tmp_path: Path) -> None:
    async def story() -> None:
        async with connect(tmp_path, Gated()) as client:
            job = await submit(client, data={"language": "he", "response_format": "text"})
            assert (job["object"], job["status"], job["file_name"]) == ("transcription.job", "queued", "meeting.flac")
            done = await ended(client, job)
            assert (done["status"], done["processed_s"], done["error"]) == ("completed", 1.0, None)
            result = f"{JOBS}/{job['id']}/result"
            assert (await client.get(result)).text.strip() == "שלום"
            for response_format, expected in {
                "json": '"usage"',
                "verbose_json": '"segments"',
                "srt": " --> ",
                "vtt": "WEBVTT",
            }.items():
                answer = await client.get(result, params={"response_format": response_format})
                assert answer.status_code == 200 and expected in answer.text
            assert (await client.get(result, params={"response_format": "mp3"})).status_code == 400
            assert list((tmp_path / "recordings").iterdir()) == []

    asyncio.run(story())


def test_a_result_is_409_until_it_is_there(tmp_path: Path) -> None:
    async def story() -> None:
        backend = Gated()
        backend.go.clear()
        async with connect(tmp_path, backend) as client:
            job = await submit(client)
            answer = await client.get(f"{JOBS}/{job['id']}/result")
            assert (answer.status_code, answer.json()["error"]["code"][:4]) == (409, "job_")
            assert (await client.delete(f"{JOBS}/{job['id']}")).status_code == 409
            backend.go.set()
            await ended(client, job)
            assert (await client.delete(f"{JOBS}/{job['id']}")).json()["deleted"]
            assert (await client.get(f"{JOBS}/{job['id']}")).status_code == 404

    asyncio.run(story())


def test_a_recording_that_cannot_be_used_fails_and_says_why(tmp_path: Path) -> None:
    async def story() -> None:
        async with connect(tmp_path, Gated()) as client:
            job = await ended(client, await submit(client, files={"file": ("notes.wav", b"not samples" * 9)}))
            assert (job["status"], job["error"]["code"]) == ("failed", "undecodable_audio")
            assert "notes.wav" in job["error"]["message"]

    asyncio.run(story())


def test_a_job_is_cancelled_while_it_runs(tmp_path: Path) -> None:
    async def story() -> None:
        backend = Gated()
        backend.go.clear()
        async with connect(tmp_path, backend) as client:
            job = await submit(client)
            await backend.begun.wait()
            cancelled = (await client.post(f"{JOBS}/{job['id']}/cancel")).json()
            assert cancelled["status"] == "cancelled"
            backend.go.set()
            other = await ended(client, await submit(client))  # the runner is free again
            assert other["status"] == "completed"
            assert (await ended(client, job))["status"] == "cancelled"
            again = (await client.post(f"{JOBS}/{other['id']}/cancel")).json()
            assert again["status"] == "completed"

    asyncio.run(story())


def test_full_queues_and_dying_replicas_are_waited_out(tmp_path: Path) -> None:
    refusals = [ApiError(429, "full"), ApiError(503, "dying"), ApiError(429, "full")]

    def answer(clip: Clip) -> Transcription:
        if refusals:
            raise refusals.pop()
        return Transcription("שלום", "Hebrew", clip.duration_s)

    async def story() -> None:
        async with connect(tmp_path, Gated(answer)) as client:
            assert (await ended(client, await submit(client)))["status"] == "completed"

    asyncio.run(story())


def test_a_job_that_the_model_refuses_is_not_tried_again(tmp_path: Path) -> None:
    def answer(clip: Clip) -> Transcription:
        raise ApiError(422, "This recording kills the model.", code="poisoned")

    async def story() -> None:
        backend = Gated(answer)
        async with connect(tmp_path, backend) as client:
            job = await ended(client, await submit(client))
            assert (job["status"], job["error"]["code"], backend.num_calls) == ("failed", "poisoned", 1)

    asyncio.run(story())


def test_jobs_are_counted_by_how_they_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serve.job_runner.RETRY_S", 0.01)
    failures = [ValueError("a bug")]

    def answer(clip: Clip) -> Transcription:
        if failures:
            raise failures.pop()
        return Transcription("שלום", "Hebrew", clip.duration_s)

    async def story() -> None:
        backend = Gated(answer)
        async with (
            receiver(500) as (url, received),
            connect(tmp_path, backend, webhook_hosts=("localhost",), jobs_at_once=1) as client,
        ):
            await ended(client, await submit(client, data={"webhook_url": url, "webhook_secret": SECRET}))
            await ended(client, await submit(client, files={"file": ("notes.wav", b"not samples" * 9)}))
            backend.go.clear()
            backend.begun.clear()
            job = await submit(client)
            await backend.begun.wait()
            assert 'caspi_jobs_in_progress{replica="test"} 1.0' in (await client.get("/metrics")).text
            await client.post(f"{JOBS}/{job['id']}/cancel")
            expected = {
                'caspi_jobs_total{outcome="retried",replica="test"} 1.0',
                'caspi_jobs_total{outcome="completed",replica="test"} 1.0',
                'caspi_jobs_total{outcome="failed",replica="test"} 1.0',
                'caspi_jobs_total{outcome="left",replica="test"} 1.0',
                'caspi_jobs_in_progress{replica="test"} 0.0',
                'caspi_webhooks_total{outcome="pending",replica="test"} 1.0',
                'caspi_audio_seconds_total{replica="test",version="none"} 1.0',
            }

            async def are_counted() -> bool:
                return expected <= set((await client.get("/metrics")).text.splitlines())

            await until(are_counted)
            assert len(received) == 1

    asyncio.run(story())


def test_a_job_survives_the_process_that_ran_it(tmp_path: Path) -> None:
    async def story() -> None:
        stuck = Gated()
        stuck.go.clear()
        async with connect(tmp_path, stuck) as client:
            job = await submit(client)
            await stuck.begun.wait()
        async with connect(tmp_path, Gated()) as client:  # a graceful end hands it over at once
            done = await ended(client, job)
            assert done["status"] == "completed"

    asyncio.run(story())


def test_several_processes_share_the_queue_and_do_nothing_twice(tmp_path: Path) -> None:
    async def story() -> None:
        first, second = Gated(), Gated()
        for backend in (first, second):
            backend.go.clear()
        async with connect(tmp_path, first, jobs_at_once=2) as one, connect(tmp_path, second, jobs_at_once=2) as other:
            jobs = [await submit(one) for _ in range(8)]
            await asyncio.gather(first.begun.wait(), second.begun.wait())
            first.go.set()
            second.go.set()
            assert {(await ended(other, job))["status"] for job in jobs} == {"completed"}
        assert first.num_calls + second.num_calls == 8

    asyncio.run(story())


def test_a_job_does_not_exist_for_others(tmp_path: Path) -> None:
    mine, theirs = ({"Authorization": f"Bearer {key}"} for key in ("mine", "theirs"))

    async def story() -> None:
        async with connect(tmp_path, Gated(), keys=("mine", "theirs")) as client:
            job = await submit(client, headers=mine)
            for method, path in (("GET", ""), ("GET", "/result"), ("POST", "/cancel"), ("DELETE", "")):
                answer = await client.request(method, f"{JOBS}/{job['id']}{path}", headers=theirs)
                assert (answer.status_code, answer.json()["error"]["code"]) == (404, "job_not_found")
            assert (await client.get(JOBS, headers=theirs)).json()["data"] == []
            assert [found["id"] for found in (await client.get(JOBS, headers=mine)).json()["data"]] == [job["id"]]
            assert (await client.get(JOBS)).status_code == 401

    asyncio.run(story())


def test_jobs_are_listed_newest_first_page_by_page(tmp_path: Path) -> None:
    async def story() -> None:
        async with connect(tmp_path, Gated()) as client:
            ids = [(await submit(client))["id"] for _ in range(5)]
            seen: list[str] = []
            page: dict[str, Any] = {"has_more": True, "last_id": None}
            while page["has_more"]:
                after = {"after": page["last_id"]} if page["last_id"] else {}
                page = (await client.get(JOBS, params={"limit": 2, **after})).json()
                seen += [job["id"] for job in page["data"]]
            assert seen == ids[::-1]
            assert (await client.get(JOBS, params={"limit": 0})).status_code == 400

    asyncio.run(story())


def test_a_submission_that_is_repeated_is_one_job(tmp_path: Path) -> None:
    async def story() -> None:
        async with connect(tmp_path, Gated(), keys=("a" * 20, "b" * 20)) as client:
            own = {"Authorization": f"Bearer {'a' * 20}", "Idempotency-Key": "monday"}
            first, again = [await submit(client, headers=own) for _ in range(2)]
            assert first["id"] == again["id"]
            other = await submit(client, headers=own | {"Authorization": f"Bearer {'b' * 20}"})
            assert other["id"] != first["id"]

    asyncio.run(story())


@pytest.mark.parametrize(("limit", "whose"), [("max_jobs", "There are 2"), ("max_jobs_per_key", "Yours are 2")])
def test_the_queue_is_bounded(tmp_path: Path, limit: str, whose: str) -> None:
    async def story() -> None:
        backend = Gated()
        backend.go.clear()
        async with connect(tmp_path, backend, **{limit: 2}) as client:
            for _ in range(2):
                await submit(client)
            refusal = await client.post(JOBS, files=FILES)
            assert (refusal.status_code, refusal.json()["error"]["type"]) == (429, "rate_limit_error")
            assert whose in refusal.json()["error"]["message"] and refusal.headers["retry-after"]

    asyncio.run(story())


def test_a_submission_is_repeated_in_a_full_queue_too(tmp_path: Path) -> None:
    async def story() -> None:
        backend = Gated()
        backend.go.clear()
        async with connect(tmp_path, backend, max_jobs=1) as client:
            own = {"Idempotency-Key": "monday"}
            first, again = [await submit(client, headers=own) for _ in range(2)]
            assert first["id"] == again["id"]
            assert (await client.post(JOBS, files=FILES)).status_code == 429

    asyncio.run(story())


def test_a_job_that_waited_too_long_expires_and_an_old_one_is_forgotten(tmp_path: Path) -> None:
    async def story() -> None:
        backend = Gated()
        backend.go.clear()
        async with connect(tmp_path, backend, job_window_s=0.3, job_lease_s=0.2, job_kept_s=1.0) as client:
            job = await submit(client)
            assert (await ended(client, job))["status"] == "expired"

            async def is_gone() -> bool:
                return (await client.get(f"{JOBS}/{job['id']}")).status_code == 404

            await until(is_gone)

    asyncio.run(story())


@asynccontextmanager
async def receiver(*statuses: int) -> AsyncIterator[tuple[str, list[tuple[dict[str, str], bytes]]]]:
    """Somebody's server on loopback, which answers with `statuses` one after another, then with 204."""
    received: list[tuple[dict[str, str], bytes]] = []

    async def take(request: web.Request) -> web.Response:
        status = statuses[len(received)] if len(received) < len(statuses) else 204
        received.append((dict(request.headers), await request.read()))
        return web.Response(status=status, headers={"Location": "http://127.0.0.1:9/"} if status == 302 else {})

    app = web.Application()
    app.router.add_post("/hook", take)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    try:
        yield f"http://localhost:{port}/hook", received
    finally:
        await runner.cleanup()


def test_a_webhook_is_signed_and_repeated_until_it_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serve.webhooks.RETRIES_S", (0.1,) * 3)

    async def story() -> None:
        async with (
            receiver(500, 302) as (url, received),
            connect(tmp_path, Gated(), webhook_hosts=("localhost",)) as client,
        ):
            job = await submit(client, data={"webhook_url": url, "webhook_secret": SECRET})

            async def is_delivered() -> bool:
                found = (await client.get(f"{JOBS}/{job['id']}")).json()
                return found["webhook_state"] == "delivered"

            await until(is_delivered)
            assert len(received) == 3
            assert len({headers["webhook-id"] for headers, _ in received}) == 1
            for headers, body in received:  # with OpenAI's own check
                event: Any = openai.OpenAI(api_key="none").webhooks.unwrap(body, headers, secret=SECRET)
                assert (event.type, event.data.id) == ("transcription.job.completed", job["id"])

    asyncio.run(story())


def test_a_webhook_that_nobody_takes_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serve.webhooks.RETRIES_S", (0.05,))

    async def story() -> None:
        async with (
            receiver(500, 500, 500) as (url, received),
            connect(tmp_path, Gated(), webhook_hosts=("127.0.0.0/8",)) as client,
        ):
            url = url.replace("localhost", "127.0.0.1")
            job = await submit(client, data={"webhook_url": url, "webhook_secret": SECRET})

            async def is_failed() -> bool:
                return (await client.get(f"{JOBS}/{job['id']}")).json()["webhook_state"] == "failed"

            await until(is_failed)
            assert len(received) == 2

    asyncio.run(story())
