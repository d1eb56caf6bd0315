"""No request waits for ever."""

import asyncio
import time
from collections.abc import Awaitable
from typing import TypeVar

from serve.errors import ApiError

T = TypeVar("T")


async def by_deadline(work: Awaitable[T], deadline: float) -> T:
    """The work's result, or an ApiError, 504, at `deadline`."""
    try:
        async with asyncio.timeout(max(0, deadline - time.monotonic())):
            return await work
    except TimeoutError:
        raise ApiError(504, "No answer within the time that a request may take.", code="deadline_exceeded") from None
