"""One JSON line a request, and the record behind it. Neither holds transcripts, prompts, file names or audio."""

import contextlib
import logging
import time
import uuid
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from starlette._utils import get_route_path
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

# A child of Serve's own logger, whose handler writes to `logs/serve/` of the Ray session, as JSON where that is set.
logger = logging.getLogger("ray.serve.caspi")

REQUEST_ID = "x-request-id"
MODEL_VERSION = "x-caspi-model-version"
_MAX_ID_CHARS = 128


@dataclass(slots=True)
class Record:
    """What is known of a request so far. The pieces of a long recording write into the same one."""

    request_id: str = field(default_factory=lambda: uuid.uuid4().hex)
    """What the client sent as `x-request-id`, else what Serve made up. Also what a canary's share is drawn by."""

    began: float = field(default_factory=time.monotonic)
    audio_s: float = 0.0
    upload_s: float | None = None
    decode_s: float = 0.0
    """Waiting for decoded audio, speech found in it."""

    queue_s: float = 0.0
    """Summed over the pieces, as `compute_s`."""

    compute_s: float = 0.0
    num_pieces: int = 0
    num_retries: int = 0
    versions: list[str] = field(default_factory=list)
    """Of the models that answered: two where a model was exchanged in the middle of a long recording."""

    refusal: str | None = None
    """The `code` of the error that was answered."""

    def age_s(self) -> float:
        return time.monotonic() - self.began

    @contextlib.contextmanager
    def timing_decode(self) -> Iterator[None]:
        """Adds what the block takes."""
        began = time.monotonic()
        try:
            yield
        finally:
            self.decode_s += time.monotonic() - began

    def add_version(self, version: str) -> None:
        if version not in self.versions:
            self.versions.append(version)


_current: ContextVar[Record | None] = ContextVar("caspi_request", default=None)


def current() -> Record:
    """The record of the request that this task works for. Work without a request has one that nobody reads."""
    return _current.get() or Record()


def start_record(request_id: str | None = None) -> Record:
    """A new record for this task and those that it starts."""
    record = Record() if request_id is None else Record(request_id[:_MAX_ID_CHARS])
    _current.set(record)
    return record


class RequestLog:
    """The outermost ASGI middleware: starts the record, logs it with the answer, and says which model answered.

    `x-request-id` is put into the answer by Serve, which makes one up where the client sent none.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not get_route_path(scope).startswith("/v1/"):
            return await self._app(scope, receive, send)
        record = start_record(Headers(scope=scope).get(REQUEST_ID))
        status = 500  # what the server makes of an application that answers nothing

        async def receive_and_time() -> Message:
            message = await receive()
            if record.upload_s is None and not message.get("more_body", False):
                record.upload_s = record.age_s()
            return message

        async def send_and_note(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                if record.versions:
                    MutableHeaders(scope=message)[MODEL_VERSION] = ",".join(record.versions)
            await send(message)

        try:
            await self._app(scope, receive_and_time, send_and_note)
        finally:
            logger.info("request", extra=_line(record, method=scope["method"], path=_route(scope), status=status))


def _route(scope: Scope) -> str:
    """The route's pattern where one answered: what strangers type is kept out of the log."""
    return str(getattr(scope.get("route"), "path", "/v1/*"))


def _line(record: Record, *, method: str, path: str, status: int) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "request_id": record.request_id,
        "method": method,
        "path": path,
        "status": status,
        "refusal": record.refusal,
        "duration_ms": _ms(record.age_s()),
        "upload_ms": None if record.upload_s is None else _ms(record.upload_s),
    }
    if record.num_pieces:
        fields |= {
            "audio_s": round(record.audio_s, 3),
            "decode_ms": _ms(record.decode_s),
            "pieces": record.num_pieces,
            "queue_ms": _ms(record.queue_s),
            "compute_ms": _ms(record.compute_s),
            "retries": record.num_retries,
            "model_version": ",".join(record.versions),
        }
    return {key: value for key, value in fields.items() if value is not None}


def _ms(seconds: float) -> float:
    return round(1000 * seconds, 1)
