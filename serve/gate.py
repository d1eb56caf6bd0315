"""In front of /v1: who may come in, how many at once, and how much they may bring. Decided before a body is read."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass

from starlette._utils import get_route_path  # private, but what routes are found by: under a prefix the path has it
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve import body
from serve.browsers import check_page
from serve.errors import ApiError
from serve.keys import Keyring
from serve.limits import Allowance, Allowances
from serve.metrics import Metrics
from serve.options import Options

TRANSCRIPTIONS = "/v1/audio/transcriptions"
JOBS = "/v1/audio/transcriptions/jobs"


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks. In `request.state.caller`."""

    name: str
    """The key's name; `anonymous` where no key is needed."""

    allowance: Allowance | None = None

    def charge_audio(self, seconds: float) -> None:
        """Count audio that was transcribed against the key's limit, if it has one."""
        if self.allowance is not None:
            self.allowance.charge_audio(seconds)


class Gate:
    """ASGI middleware. Leaves `deadline` (`time.monotonic`) and `caller` in `request.state`."""

    def __init__(
        self, app: ASGIApp, *, options: Options, keyring: Keyring, metrics: Metrics, is_public: bool = False
    ) -> None:
        self._app = app
        self._options = options
        self._keyring = keyring
        self._metrics = metrics
        self._guarded = ("/v1/", "/metrics") if is_public else ("/v1/",)
        self._allowances = Allowances(num_processes=options.ingress_replicas)
        self._in_flight = {TRANSCRIPTIONS: 0, JOBS: 0}
        self._max_in_flight = {TRANSCRIPTIONS: options.max_in_flight, JOBS: options.max_job_uploads}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            return await self._app(scope, receive, send)
        path = get_route_path(scope)
        if not path.startswith(self._guarded):
            return await self._app(scope, receive, send)
        send = self._counting(path, send)
        try:
            caller = self._admit(Headers(scope=scope))
        except ApiError as refusal:
            if scope["type"] == "websocket":
                return await send({"type": "websocket.close", "code": 1008, "reason": refusal.detail})
            return await refusal.response()(scope, receive, send)
        scope.setdefault("state", {})["caller"] = caller
        if scope["type"] == "websocket" or scope["method"] != "POST" or path not in (TRANSCRIPTIONS, JOBS):
            return await self._app(scope, receive, send)
        await self._take(path, scope, receive, send, caller)

    def _admit(self, headers: Headers) -> Caller:
        key = self._keyring.authenticate(headers)
        if key is None:
            check_page(headers, self._options)
            return Caller("anonymous")
        return Caller(key.name, self._allowances.of(key))

    async def _take(self, path: str, scope: Scope, receive: Receive, send: Send, caller: Caller) -> None:
        """A request that brings a recording."""
        bounds = self._bounds(path)
        scope["state"]["deadline"] = bounds.deadline
        send = body.bounded_send(send, bounds)
        if caller.allowance is not None:
            send = _telling(send, caller.allowance)
        try:
            body.check_headers(Headers(scope=scope), bounds)
            async with self._room(path, caller):
                await self._app(scope, body.bounded_receive(receive, bounds), send)
        except ApiError as refusal:  # the application's own are answered there
            await refusal.response()(scope, receive, send)

    def _bounds(self, path: str) -> body.Bounds:
        options = self._options
        max_mb, timeout_s = options.max_upload_mb, options.request_timeout_s
        if path == JOBS:
            max_mb, timeout_s = options.max_job_upload_mb, options.job_upload_timeout_s
        return body.Bounds(max_mb * 2**20, time.monotonic() + timeout_s, options.idle_timeout_s)

    @asynccontextmanager
    async def _room(self, path: str, caller: Caller) -> AsyncIterator[None]:
        if self._in_flight[path] >= self._max_in_flight[path]:
            what = "transcriptions are in progress" if path == TRANSCRIPTIONS else "recordings for jobs are coming in"
            message = f"{self._in_flight[path]} {what}, which is all this server takes at once."
            raise ApiError(429, message, code="rate_limit_exceeded", retry_after_s=self._options.retry_after_s)
        with caller.allowance.request() if caller.allowance else nullcontext():
            self._count_in_flight(path, +1)
            try:
                yield
            finally:
                self._count_in_flight(path, -1)

    def _count_in_flight(self, path: str, change: int) -> None:
        self._in_flight[path] += change
        self._metrics.in_flight.set(self._in_flight[TRANSCRIPTIONS])

    def _counting(self, path: str, send: Send) -> Send:
        """`send` that counts the answer, by known paths alone: what strangers type would make series without end."""
        started = time.monotonic()
        known = path if path in (TRANSCRIPTIONS, JOBS) else "/v1/*"

        async def send_and_count(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._metrics.count_request(known, message["status"], time.monotonic() - started)
            await send(message)

        return send_and_count


def _telling(send: Send, allowance: Allowance) -> Send:
    """`send` that tells what is left of the key's limits."""

    async def send_and_tell(message: Message) -> None:
        if message["type"] == "http.response.start":
            MutableHeaders(scope=message).update(allowance.headers())
        await send(message)

    return send_and_tell
