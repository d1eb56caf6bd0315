"""Telling somebody's server that a job has ended, signed, and without becoming a way into the network.

The form is that of OpenAI's webhooks and of https://www.standardwebhooks.com: `openai.webhooks.unwrap` accepts it.
A URL comes from a client, so the address that its name leads to is looked at, and exactly that address is called.
"""

import base64
import hashlib
import hmac
import ipaddress
import json
import logging
import re
import socket
import time
from collections.abc import Collection

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import ThreadedResolver
from yarl import URL  # as aiohttp reads them

from serve.errors import ApiError
from serve.job_store import Delivery

logger = logging.getLogger(__name__)

SECRET_PREFIX = "whsec_"
MIN_SECRET_BYTES, MAX_SECRET_BYTES = 24, 64
MAX_URL_CHARS = 2000

# Waits between tries, as standardwebhooks.com proposes; after the last the delivery has failed.
RETRIES_S = (5.0, 300.0, 1800.0, 7200.0, 18000.0, 36000.0)


class Forbidden(OSError):
    """An address that webhooks may not reach."""


class Webhooks:
    """Checks, signs and delivers."""

    def __init__(self, allowed: Collection[str] = (), *, timeout_s: float = 15.0) -> None:
        """`allowed`: host names, addresses and networks that may be called although they are private, or by http."""
        self.timeout_s = timeout_s
        self._names = frozenset(allowed)
        self._networks = [network for network in map(_network, allowed) if network is not None]

    def check(self, url: str, secret: str) -> None:
        """Refuse at submission what would never be delivered.

        Raises:
            ApiError: 400.
        """
        parts = _parse(url)
        host = parts.raw_host or ""
        is_http = parts.scheme == "http" and self._is_allowed(host)
        if len(url) > MAX_URL_CHARS or not host or not (parts.scheme == "https" or is_http):
            message = "webhook_url must be an https:// URL with a host name."
            raise ApiError(400, message, param="webhook_url", code="invalid_value")
        if "@" in re.split("[/?#]", url)[2]:
            message = "webhook_url must not hold a user name: whatever answers there checks the signature instead."
            raise ApiError(400, message, param="webhook_url", code="invalid_value")
        if not self._is_allowed(host) and _is_private(host):
            message = f"webhook_url leads to {host}, which is not a public address."
            raise ApiError(400, message, param="webhook_url", code="invalid_value")
        _secret_bytes(secret)

    async def deliver(self, delivery: Delivery) -> tuple[str, float | None]:
        """Try once. Returns the state to note, and after how many seconds to try again, None for never."""
        try:
            status = await self._post(delivery)
        except (aiohttp.ClientError, OSError, TimeoutError, UnicodeError) as error:
            problem = type(error).__name__
        else:
            if 200 <= status < 300:
                return "delivered", None
            problem = str(status)
        attempts = delivery.job.webhook_attempts
        logger.warning("webhook not delivered job=%s attempt=%d problem=%s", delivery.job.id, attempts, problem)
        if attempts > len(RETRIES_S):
            return "failed", None
        return "pending", RETRIES_S[attempts - 1]

    async def _post(self, delivery: Delivery) -> int:
        url = _parse(delivery.job.webhook_url or "")
        host = url.raw_host or ""
        if not self._is_allowed(host) and _is_private(host):  # aiohttp resolves no addresses
            raise Forbidden(f"{host} is not a public address")
        event_id, body = event(delivery)
        timestamp = int(time.time())
        headers = {
            "content-type": "application/json",
            "user-agent": "caspi",
            "webhook-id": event_id,
            "webhook-timestamp": str(timestamp),
            "webhook-signature": sign(delivery.secret, event_id, timestamp, body),
        }
        connector = aiohttp.TCPConnector(resolver=_PublicResolver(self), force_close=True)
        timeout = aiohttp.ClientTimeout(total=self.timeout_s)
        async with (
            aiohttp.ClientSession(connector=connector, timeout=timeout, trust_env=False) as session,
            # A redirect would lead somewhere that nobody has checked.
            session.post(url, data=body, headers=headers, allow_redirects=False) as answer,
        ):
            return answer.status

    def _is_allowed(self, host: str) -> bool:
        if host in self._names:
            return True
        try:
            address = ipaddress.ip_address(host)
        except ValueError:
            return False
        return any(address in network for network in self._networks)


class _PublicResolver(AbstractResolver):
    """Resolves names to public addresses only. The connection goes to what was checked: nothing resolves it again."""

    def __init__(self, webhooks: Webhooks) -> None:
        self._webhooks = webhooks
        self._resolver = ThreadedResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        found = await self._resolver.resolve(host, port, family)
        if self._webhooks._is_allowed(host):
            return found
        public = [
            result for result in found if self._webhooks._is_allowed(result["host"]) or not _is_private(result["host"])
        ]
        if not public:
            raise Forbidden(f"{host} leads to no public address")
        return public

    async def close(self) -> None:
        await self._resolver.close()


def event(delivery: Delivery) -> tuple[str, bytes]:
    """The event's id, the same for every try, and its body. It names the job; the transcript is fetched with a key."""
    job = delivery.job
    event_id = f"evt_{job.id.removeprefix('job_')}"
    content = {
        "id": event_id,
        "object": "event",
        "type": f"transcription.job.{job.status}",
        "created_at": int(job.ended_at or 0),
        "data": {"id": job.id},
    }
    return event_id, json.dumps(content).encode()


def sign(secret: str, event_id: str, timestamp: int, body: bytes) -> str:
    """The `webhook-signature` of a body."""
    signed = f"{event_id}.{timestamp}.".encode() + body
    digest = hmac.digest(_secret_bytes(secret), signed, hashlib.sha256)
    return f"v1,{base64.b64encode(digest).decode()}"


def _secret_bytes(secret: str) -> bytes:
    try:
        decoded = base64.b64decode(secret.removeprefix(SECRET_PREFIX), validate=True)
    except ValueError:  # binascii.Error is one, and letters beyond ASCII are another
        decoded = b""
    if not (secret.startswith(SECRET_PREFIX) and MIN_SECRET_BYTES <= len(decoded) <= MAX_SECRET_BYTES):
        message = (
            f"webhook_secret must be {SECRET_PREFIX} and the base64 of {MIN_SECRET_BYTES} to {MAX_SECRET_BYTES} random "
            "bytes; the signature is made with it."
        )
        raise ApiError(400, message, param="webhook_secret", code="invalid_value")
    return decoded


def _parse(url: str) -> URL:
    """The URL as it will be called: `１２７.0.0.1` is 127.0.0.1 by then. Empty where it is none."""
    try:
        return URL(url)
    except ValueError:
        return URL()


def _is_private(host: str) -> bool:
    """Whether it is an address that is not public. A name is not: it is looked at when it is resolved."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    if isinstance(address, ipaddress.IPv6Address):
        # Addresses that carry another one lead there.
        inner = address.ipv4_mapped or address.sixtofour or (address.teredo and address.teredo[1])
        if inner:
            return not inner.is_global
        if address in ipaddress.ip_network("64:ff9b::/96"):
            return not ipaddress.ip_address(address.packed[-4:]).is_global
    return not address.is_global or address.is_multicast


def _network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
    try:
        return ipaddress.ip_network(text)
    except ValueError:  # a host name
        return None
