"""What uvicorn lacks in Serve's proxy: a deadline and a bound for the headers of a request.

Without them a connection that sends a byte now and then, or nothing at all, stays open for ever. Serve calls `install`
in its proxies when the environment they start in says so: `RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH`. HAProxy, where
it stands in front, has deadlines of its own.
"""

import asyncio

from starlette.middleware import Middleware
from uvicorn.config import HTTP_PROTOCOLS
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from caspi import settings

CALLBACK = "caspi.inference.header_deadline:install"
CALLBACK_VARIABLE = "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH"

MAX_HEADER_BYTES = 64 * 2**10


def install() -> list[Middleware]:
    """Have every uvicorn server that this process starts from now on use `GuardedProtocol`. No middleware is needed."""
    for kind in ("auto", "httptools"):
        HTTP_PROTOCOLS[kind] = f"{__name__}:GuardedProtocol"
    return []


class GuardedProtocol(HttpToolsProtocol):
    """A connection that is closed when a request's headers are too slow or too large.

    Of the bytes that a request's headers take those are counted that come after its first ones.
    """

    _guard: asyncio.TimerHandle | None = None
    _num_header_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._begin()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._begin()

    def data_received(self, data: bytes) -> None:
        guard = self._guard
        super().data_received(data)
        if self._guard is not None and self._guard is guard:
            # Here and not by what the parser tells: it tells of a header once that is complete, and one may never be.
            self._count(len(data))
        elif self._is_forgotten():
            self._begin()

    def on_headers_complete(self) -> None:
        self._end()
        super().on_headers_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end()
        super().connection_lost(exc)

    def _begin(self) -> None:
        """From the connection, or the first byte of a later request, for which `timeout_keep_alive` waits."""
        self._end()
        self._num_header_bytes = 0
        self._guard = self.loop.call_later(settings.read().header_timeout_s, self._close)

    def _is_forgotten(self) -> bool:
        """Whether the connection is idle, and uvicorn's timer for that is off: it was, by a line break that begins no
        request."""
        is_idle = self.cycle is not None and self.cycle.response_complete
        return is_idle and self._guard is None and self.timeout_keep_alive_task is None

    def _end(self) -> None:
        if self._guard is not None:
            self._guard.cancel()
            self._guard = None

    def _count(self, num_bytes: int) -> None:
        self._num_header_bytes += num_bytes
        if self._num_header_bytes > MAX_HEADER_BYTES:
            self._close()

    def _close(self) -> None:
        if not self.transport.is_closing():
            self.transport.close()
