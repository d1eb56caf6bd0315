"""In front of /v1: who may come in, how many at once, and how much they may bring. Decided before a body is read."""

import asyncio
import hashlib
import hmac
import time
from collections.abc import Collection

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve.errors import ApiError
from serve.metrics import Metrics
from serve.options import Options

TRANSCRIPTIONS = "/v1/audio/transcriptions"


def hash_key(key: str) -> str:
    """API keys travel and rest as this; the key itself is only in the environment that it came from."""
    return hashlib.sha256(key.encode()).hexdigest()


class Gate:
    """ASGI middleware. Leaves the request's deadline (`time.monotonic`) in `request.state.deadline`."""

    def __init__(self, app: ASGIApp, *, options: Options, key_hashes: Collection[str], metrics: Metrics) -> None:
        self._app = app
        self._options = options
        self._key_hashes = key_hashes
        self._metrics = metrics
        self._num_in_flight = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not scope["path"].startswith("/v1/"):
            return await self._app(scope, receive, send)

        started = time.monotonic()
        path = TRANSCRIPTIONS if scope["path"] == TRANSCRIPTIONS else "/v1/*"

        async def send_and_count(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._metrics.count_request(path, message["status"], time.monotonic() - started)
            await send(message)

        try:
            self._authenticate(Headers(scope=scope))
            if path == TRANSCRIPTIONS and scope["method"] == "POST":
                self._check_body(Headers(scope=scope))
                self._check_room()
        except ApiError as refusal:
            return await refusal.response()(scope, receive, send_and_count)
        if path != TRANSCRIPTIONS:
            return await self._app(scope, receive, send_and_count)

        deadline = started + self._options.request_timeout_s
        scope.setdefault("state", {})["deadline"] = deadline
        self._count_in_flight(+1)
        try:
            await self._app(scope, self._bounded(receive, deadline), send_and_count)
        finally:
            self._count_in_flight(-1)

    def _authenticate(self, headers: Headers) -> None:
        if not self._key_hashes:
            return
        scheme, _, key = headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not key:
            raise ApiError(401, "No API key: send `Authorization: Bearer KEY`.", code="missing_api_key")
        given = hash_key(key.strip())
        # Every key is compared, each in constant time, so that timing tells nothing about any of them.
        if not any([hmac.compare_digest(given, known) for known in self._key_hashes]):
            raise ApiError(401, "Incorrect API key.", code="invalid_api_key")

    def _check_body(self, headers: Headers) -> None:
        content_type = headers.get("content-type", "")
        if not content_type.startswith("multipart/form-data"):
            found = content_type or "nothing"
            raise ApiError(415, f"Content-Type is {found}; send multipart/form-data.", code="unsupported_media_type")
        length = headers.get("content-length", "")
        if length.isdecimal() and int(length) > self._options.max_upload_bytes:
            raise self._too_large()

    def _check_room(self) -> None:
        if self._num_in_flight >= self._options.max_in_flight:
            message = f"{self._num_in_flight} transcriptions are in progress, which is all this server takes at once."
            raise ApiError(429, message, code="rate_limit_exceeded", retry_after_s=self._options.retry_after_s)

    def _bounded(self, receive: Receive, deadline: float) -> Receive:
        """`receive` for a body that may be neither too large, whatever its headers said, nor too slow."""
        num_bytes = 0
        is_complete = False

        async def receive_body() -> Message:
            nonlocal num_bytes, is_complete
            if is_complete:  # what follows is the wait for a disconnect, which has no deadline
                return await receive()
            try:
                async with asyncio.timeout(max(0, deadline - time.monotonic())):
                    message = await receive()
            except TimeoutError:
                raise ApiError(408, "The upload did not arrive in time.", param="file", code="upload_timeout") from None
            num_bytes += len(message.get("body", b""))
            if num_bytes > self._options.max_upload_bytes:
                raise self._too_large()
            is_complete = not message.get("more_body", False)
            return message

        return receive_body

    def _too_large(self) -> ApiError:
        message = f"The upload is larger than {self._options.max_upload_mb} MiB, which is the limit here."
        return ApiError(413, message, param="file", code="file_too_large")

    def _count_in_flight(self, change: int) -> None:
        self._num_in_flight += change
        self._metrics.in_flight.set(self._num_in_flight)
