"""What browsers are told, and what web pages of others may not do through them.

A page from anywhere can make its visitor's browser send an upload to http://127.0.0.1:8000, and by pointing its own
name at 127.0.0.1 it can even read the answer. A key stops both; without keys, these checks do.
"""

import ipaddress
from collections.abc import Collection

from fastapi import FastAPI
from starlette._utils import get_route_path
from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve.errors import ApiError
from serve.options import Options

RATE_HEADERS = [
    f"x-ratelimit-{what}-{of}" for what in ("limit", "remaining", "reset") for of in ("requests", "audio-seconds")
]

# For every answer. Pages bring a Content-Security-Policy of their own.
SECURITY_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
}


def add_to(app: FastAPI, options: Options) -> None:
    """Add the middleware. Last of all, so that it comes before the others: a preflight request shows no key."""
    app.add_middleware(SecurityHeaders)
    if options.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(options.cors_origins),
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=["Authorization", "Content-Type", "Idempotency-Key"],
            expose_headers=["Retry-After", "x-request-id", *RATE_HEADERS],
        )


class SecurityHeaders:
    """ASGI middleware: `SECURITY_HEADERS` on every answer, and no caching of what is under /v1."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in SECURITY_HEADERS.items():
                    headers[name] = value
                if get_route_path(scope).startswith("/v1/"):
                    headers["Cache-Control"] = "no-store"
            await send(message)

        await self._app(scope, receive, send_with_headers)


def check_page(headers: Headers, options: Options) -> None:
    """Refuse what another web page sends to an endpoint without keys.

    Raises:
        ApiError: 403.
    """
    host = headers.get("host", "")
    if not (options.allow_anonymous or _is_local_name(host, options.trusted_hosts)):
        message = (
            f"This server has no API keys and does not know the host name {host!r}; use an address, set keys, or list "
            "the name in `trusted_hosts`."
        )
        raise ApiError(403, message, code="untrusted_host")
    origin = headers.get("origin")
    if origin is not None and origin.partition("://")[2] != host and not _is_allowed(origin, options.cors_origins):
        message = f"Web pages of {origin!r} may not use this server; list it in `cors_origins` to let them."
        raise ApiError(403, message, code="untrusted_origin")


def _is_local_name(host: str, trusted: Collection[str]) -> bool:
    """An address, or a name that nobody outside can point here: one without a dot, or one that is trusted."""
    name = host if host.endswith("]") else host.rpartition(":")[0] or host
    try:
        ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return "." not in name.rstrip(".") or name in trusted
    return True


def _is_allowed(origin: str, allowed: Collection[str]) -> bool:
    return origin in allowed or "*" in allowed
