"""How much a request may bring, and how slowly it may come and go. Counted, whatever its headers say."""

import asyncio
import time
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass

from starlette.datastructures import FormData, Headers
from starlette.requests import Request
from starlette.types import Message, Receive, Send

from serve.errors import ApiError

# `keywords[]` may come two hundred times. A part with a file name costs a temporary file, so there is one.
MAX_FIELDS, MAX_FILES, MAX_FIELD_BYTES = 500, 1, 64 * 2**10


@dataclass(frozen=True, slots=True)
class Bounds:
    """Of one request's body and answer."""

    max_bytes: int

    deadline: float
    """`time.monotonic` by which the body has to be there."""

    idle_timeout_s: float
    """Longest pause within the body, and longest time that a client may take to accept a part of the answer."""


def read_form(request: Request) -> AbstractAsyncContextManager[FormData]:
    """The request's form, of a bounded number of parts, for as long as the block runs.

    Raises:
        HTTPException: 400, it is not a form, or has too many parts or too large ones.
    """
    return request.form(max_files=MAX_FILES, max_fields=MAX_FIELDS, max_part_size=MAX_FIELD_BYTES)


def check_headers(headers: Headers, bounds: Bounds) -> None:
    """Refuse what its headers already condemn.

    Raises:
        ApiError: 415 or 413.
    """
    content_type = headers.get("content-type", "")
    if not content_type.startswith("multipart/form-data"):
        found = content_type or "nothing"
        raise ApiError(415, f"Content-Type is {found}; send multipart/form-data.", code="unsupported_media_type")
    length = headers.get("content-length", "")
    if length.isdecimal() and int(length) > bounds.max_bytes:
        raise _too_large(bounds)


def bounded_receive(receive: Receive, bounds: Bounds) -> Receive:
    """`receive` for a body that may be neither too large nor too slow."""
    num_bytes = 0
    is_complete = False

    async def receive_body() -> Message:
        nonlocal num_bytes, is_complete
        if is_complete:  # what follows is the wait for a disconnect, which has no deadline
            return await receive()
        left_s = max(0.0, bounds.deadline - time.monotonic())
        try:
            async with asyncio.timeout(min(left_s, bounds.idle_timeout_s)):
                message = await receive()
        except TimeoutError:
            raise ApiError(408, "The upload did not arrive in time.", param="file", code="upload_timeout") from None
        num_bytes += len(message.get("body", b""))
        if num_bytes > bounds.max_bytes:
            raise _too_large(bounds)
        is_complete = not message.get("more_body", False)
        return message

    return receive_body


def bounded_send(send: Send, bounds: Bounds) -> Send:
    """`send` that gives up on a client that does not read: it raises, and the server closes the connection."""

    async def send_in_time(message: Message) -> None:
        async with asyncio.timeout(bounds.idle_timeout_s):
            await send(message)

    return send_in_time


def _too_large(bounds: Bounds) -> ApiError:
    message = f"The upload is larger than {bounds.max_bytes / 2**20:g} MiB, which is the limit here."
    return ApiError(413, message, param="file", code="file_too_large")
