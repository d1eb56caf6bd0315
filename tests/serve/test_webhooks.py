"""Webhooks as a way into the network: closed, by address, by name, and after a name has changed its mind."""

import asyncio
import socket
from typing import Any

import aiohttp
import pytest

from serve.errors import ApiError
from serve.job_store import Delivery, Job
from serve.webhooks import RETRIES_S, Webhooks, sign

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


def delivery(url: str, *, attempts: int = 1) -> Delivery:
    row: dict[str, Any] = dict.fromkeys(Job.__dataclass_fields__)
    row |= {"id": "job_1", "status": "completed", "webhook_url": url, "webhook_attempts": attempts}
    return Delivery(Job(**row), SECRET)


def test_the_signature_is_that_of_the_standard() -> None:
    # The example of https://github.com/standard-webhooks/standard-webhooks
    signature = sign(SECRET, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}')
    assert signature == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


@pytest.mark.parametrize(
    "url",
    [
        "http://example.org/hook",
        "ftp://example.org/hook",
        "https:///hook",
        "https://user:password@example.org/hook",
        "https://:password@example.org/hook",
        "https://@example.org/hook",
        "https://127.0.0.1/hook",
        "https://１２７.0.0.1/hook",
        "https://127。0。0。1/hook",
        "https://①②⑦.0.0.1/hook",
        "https://[::1",
        "https://a]b/",
        "https://example.org:99999/",
        "https://10.1.2.3/hook",
        "https://169.254.169.254/latest/meta-data",
        "https://100.64.0.1/hook",
        "https://224.0.0.1/hook",
        "https://0.0.0.0/hook",
        "https://[::1]/hook",
        "https://[fd00::1]/hook",
        "https://[fe80::1]/hook",
        "https://[::ffff:10.0.0.1]/hook",
        "https://[64:ff9b::7f00:1]/hook",
        "https://[2002:7f00:1::]/hook",
        "https://example.org/" + "x" * 2000,
    ],
)
def test_what_would_never_be_delivered_is_refused_at_once(url: str) -> None:
    with pytest.raises(ApiError) as refusal:
        Webhooks().check(url, SECRET)
    assert (refusal.value.status_code, refusal.value.param) == (400, "webhook_url")


@pytest.mark.parametrize(
    "secret", ["", "whsec_", "whsec_c2hvcnQ=", SECRET.removeprefix("whsec_"), "whsec_%%%", "whsec_é" * 9]
)
def test_a_secret_that_protects_nothing_is_refused(secret: str) -> None:
    with pytest.raises(ApiError) as refusal:
        Webhooks().check("https://example.org/hook", secret)
    assert refusal.value.param == "webhook_secret"


def test_public_and_allowed_addresses_are_accepted() -> None:
    Webhooks().check("https://example.org:8443/hook", SECRET)
    Webhooks().check("https://93.184.216.34/hook", SECRET)
    Webhooks(["10.0.0.0/8", "hooks.internal"]).check("http://10.1.2.3/hook", SECRET)
    Webhooks(["10.0.0.0/8", "hooks.internal"]).check("http://hooks.internal/hook", SECRET)


@pytest.mark.parametrize(
    "url",
    # Names for 127.0.0.1 that no check of the text would find: it is the resolved address that counts.
    [
        "https://localhost:{port}/",
        "https://2130706433:{port}/",
        "https://0x7f.1:{port}/",
        "https://127.0.0.1:{port}/",
        "https://①②⑦.0.0.1:{port}/",
    ],
)
def test_a_name_that_leads_into_the_network_is_not_called(url: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        target = url.format(port=server.getsockname()[1])
        state, retry_after_s = asyncio.run(Webhooks(timeout_s=5).deliver(delivery(target)))
        assert (state, retry_after_s) == ("pending", RETRIES_S[0])
        with pytest.raises(BlockingIOError):
            server.accept()


def test_a_name_is_resolved_once_and_what_was_checked_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    """DNS rebinding: a name that is public when it is checked and private when it is called."""
    answers = ["93.184.216.34", "127.0.0.1"]
    called: list[str] = []

    async def resolve(self: Any, host: str, port: int = 0, family: int = 0) -> list[dict[str, Any]]:
        return [
            {"hostname": host, "host": answers.pop(0), "port": port, "family": socket.AF_INET, "proto": 0, "flags": 0}
        ]

    async def connect(self: Any, *args: Any, addr_infos: Any, **given: Any) -> Any:
        called.extend(info[4][0] for info in addr_infos)
        raise aiohttp.ClientConnectionError

    monkeypatch.setattr("aiohttp.resolver.ThreadedResolver.resolve", resolve)
    monkeypatch.setattr("aiohttp.TCPConnector._wrap_create_connection", connect)
    asyncio.run(Webhooks().deliver(delivery("https://example.org/hook")))
    assert called == ["93.184.216.34"]
    asyncio.run(Webhooks().deliver(delivery("https://example.org/hook")))
    assert called == ["93.184.216.34"]


def test_the_last_try_is_the_last() -> None:
    url = "https://127.0.0.1/hook"
    for attempts, expected in ((len(RETRIES_S), ("pending", RETRIES_S[-1])), (len(RETRIES_S) + 1, ("failed", None))):
        assert asyncio.run(Webhooks().deliver(delivery(url, attempts=attempts))) == expected
