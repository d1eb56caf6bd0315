"""Metrics, logs and the dashboard, over a backend that a test controls."""

import asyncio
import json
import logging
import re
import time
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from serve import logs
from serve.board import Board, BoardClient, Expiring
from serve.calling import Trial, is_fault_of_model
from serve.errors import ApiError
from serve.ingress import is_drawn
from serve.metrics import MAX_VERSIONS, Metrics, ModelMetrics, render
from tests.serve.test_api import FILES, URL, Backend, connect

DASHBOARD = Path(__file__).parents[2] / "cluster" / "dashboards" / "caspi-endpoint.json"


def text_of(metrics: Metrics) -> str:
    return asyncio.run(metrics.render()).decode()


def test_one_scrape_holds_the_counters_of_all_replicas_and_parses() -> None:
    first, second, model = Metrics("a"), Metrics("b"), ModelMetrics("m")
    first.count_retry("died")
    second.count_retry("died")
    model.show_model(name="he", version="7", sha="abc")

    async def exchange() -> bytes:
        board = Board()
        await board.publish("b", list(second.registry.collect()))
        await board.publish("m", list(model.registry.collect()))
        return render([*first.registry.collect(), *await board.collect("a")])

    families = {family.name: family for family in text_string_to_metric_families(asyncio.run(exchange()).decode())}
    retries = [sample for sample in families["caspi_retries"].samples if sample.name == "caspi_retries_total"]
    assert [(sample.labels["replica"], sample.value) for sample in retries] == [("a", 1), ("b", 1)]
    assert families["caspi_model_info"].samples[0].labels["version"] == "7"


def test_versions_of_long_ago_lose_their_series() -> None:
    metrics = Metrics("a")
    for version in range(100):
        metrics.observe_piece(str(version), queue_s=0.1, compute_s=0.2, fill=0.5)
    versions = set(re.findall(r'version="(\w+)"', text_of(metrics)))
    assert len(versions) == MAX_VERSIONS and "99" in versions and "0" not in versions


def test_refusals_are_counted_by_a_bounded_number_of_reasons() -> None:
    metrics = Metrics("a")
    for n in range(1000):
        logs.start_record().refusal = f"reason_{n}"
        metrics.count_request("/v1/*", 400, 0.1)
    assert 60 < len(re.findall(r"caspi_refusals_total\{.*\}", text_of(metrics))) <= 65


def test_what_is_told_to_the_board_is_forgotten_and_bounded() -> None:
    kept = Expiring(60, at_most=2)
    for key in "abc":
        kept.put(key)
    assert list(kept.items()) == ["b", "c"]
    short = Expiring(0, at_most=2)
    short.put("a")
    assert short.items() == {}

    async def share() -> list[str]:
        board, now = Board(), time.time()
        await board.share_poison({"x": now, "an hour ago": now - 3601})
        return list(await board.share_poison({"y": now}))

    assert asyncio.run(share()) == ["x", "y"], "what one has forgotten, another does not bring back"


def test_a_clip_is_found_guilty_where_it_alone_was_there_twice() -> None:
    class Direct(BoardClient):
        def __init__(self, board: Board) -> None:
            self._direct = board

        async def ask(self, method: str, *args: Any, timeout_s: float = 1) -> Any:
            return await getattr(self._direct, method)(*args)

    async def verdicts(*, killed_elsewhere: bool, was_begun: bool) -> list[bool]:
        board = Board()
        trial = Trial(Direct(board))
        found = [await trial.finds_guilty("first")]
        if killed_elsewhere:
            await board.note_death("another")
        for actor in ("second", "second", "third"):
            if was_begun:
                await board.begin(trial.attempt or "")
            found.append(await trial.finds_guilty(actor))
        return found

    assert asyncio.run(verdicts(killed_elsewhere=False, was_begun=True))[:2] == [False, True]
    assert asyncio.run(verdicts(killed_elsewhere=True, was_begun=True)) == [False, False, False, True]
    assert asyncio.run(verdicts(killed_elsewhere=False, was_begun=False)) == [False, False, False, False]


def test_a_share_is_drawn_by_the_id_and_comes_out_right() -> None:
    drawn = [is_drawn(f"request-{n}", 0.05) for n in range(20_000)]
    assert 0.04 < sum(drawn) / len(drawn) < 0.06
    assert is_drawn("one", 0.5) == is_drawn("one", 0.5)


@pytest.mark.parametrize(
    ("error", "is_fault"),
    [
        (RuntimeError("CUDA"), True),
        (ApiError(503, "gone"), True),
        (ApiError(429, "full"), True),
        (ApiError(422, "poison"), False),
        (ApiError(504, "late"), False),
    ],
)
def test_the_stable_model_gets_what_the_canary_is_to_blame_for(error: Exception, is_fault: bool) -> None:
    assert is_fault_of_model(error) == is_fault


def ask(caplog: pytest.LogCaptureFixture, **request: Any) -> dict[str, Any]:
    """The log record of one request."""

    async def post() -> None:
        async with connect(Backend()) as client:
            await client.post(URL, **request)

    with caplog.at_level(logging.INFO, "ray.serve.caspi"):
        asyncio.run(post())
    (record,) = [record for record in caplog.records if record.name == "ray.serve.caspi"]
    return dict(record.__dict__)


def test_a_request_is_one_line_with_its_id_and_without_what_was_said(caplog: pytest.LogCaptureFixture) -> None:
    fields = {"prompt": "a secret name", "language": "he"}
    line = ask(caplog, files=FILES, data=fields, headers={"x-request-id": "mine"})
    assert (line["request_id"], line["method"], line["path"], line["status"]) == ("mine", "POST", URL, 200)
    assert line["duration_ms"] >= line["upload_ms"] >= 0
    written = json.dumps(line, default=str, ensure_ascii=False)
    for secret in ("שלום", "a secret name", "speech.flac"):
        assert secret not in written


def test_a_refusal_is_logged_with_its_code(caplog: pytest.LogCaptureFixture) -> None:
    line = ask(caplog, files=FILES, data={"model": "whisper-1"})
    assert (line["status"], line["refusal"]) == (404, "model_not_found")


def test_an_id_of_any_length_is_cut(caplog: pytest.LogCaptureFixture) -> None:
    assert len(ask(caplog, files=FILES, headers={"x-request-id": "x" * 5000})["request_id"]) == 128


def test_readiness_says_which_model_answers() -> None:
    async def visit() -> tuple[str, Any]:
        async with connect(Backend()) as client:
            return (await client.get("/readyz")).text, (await client.get("/v1/models/caspi")).json()

    ready, card = asyncio.run(visit())
    assert ready == "ready\nhe version=7 sha=abc\n"
    assert card["serving"] == {"name": "he", "version": "7", "sha": "abc", "problem": None}


def test_every_query_of_the_dashboard_names_metrics_that_there_are() -> None:
    known: set[str] = set()
    for registry in (Metrics("a").registry, ModelMetrics("m").registry):
        for family in registry.collect():
            suffixes = {"counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"]}.get(family.type, [""])
            known |= {family.name + suffix for suffix in suffixes}
    panels = json.loads(DASHBOARD.read_text())["panels"]
    queries = [target["expr"] for panel in panels for target in panel.get("targets", [])]
    used = {name for query in queries for name in re.findall(r"\bcaspi_\w+", query)}
    assert used - known == set()
    assert len(queries) >= 12
