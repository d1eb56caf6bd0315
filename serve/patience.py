"""Waiting until there is room, for work that need not be done at once."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Container
from typing import TypeVar

from serve.errors import ApiError

T = TypeVar("T")

FIRST_PAUSE_S = 0.5


async def patiently(
    call: Callable[[], Awaitable[T]], *, statuses: Container[int], deadline: float, longest_pause_s: float
) -> T:
    """What `call` returns, repeated while it is refused with one of the statuses.

    The pauses begin with half a second and double, shortened at random so that those who wait do not come together.

    Raises:
        ApiError: as `call`; with one of the statuses only when `deadline` (`time.monotonic`) is near.
    """
    pause_s = FIRST_PAUSE_S
    while True:
        try:
            return await call()
        except ApiError as refusal:
            if refusal.status_code not in statuses or time.monotonic() + pause_s > deadline:
                raise
        await asyncio.sleep(pause_s * random.uniform(0.5, 1))
        pause_s = min(2 * pause_s, longest_pause_s)
