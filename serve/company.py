"""Many at a time, or one alone."""

import asyncio
import contextlib
from collections.abc import AsyncIterator


class Company:
    """Lets tasks of one event loop in together, but a task that asks for it alone.

    Who wants to be alone goes before newcomers: it was here when a model's process died, so it is older.
    """

    def __init__(self) -> None:
        self._changed = asyncio.Condition()
        self._num_inside = 0
        self._num_lonely = 0  # alone inside, or waiting for it

    @contextlib.asynccontextmanager
    async def together(self) -> AsyncIterator[None]:
        async with self._changed:
            await self._changed.wait_for(lambda: self._num_lonely == 0)
            self._num_inside += 1
        try:
            yield
        finally:
            await self._leave()

    @contextlib.asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        self._num_lonely += 1
        try:
            async with self._changed:
                await self._changed.wait_for(lambda: self._num_inside == 0)
                self._num_inside += 1
            try:
                yield
            finally:
                await self._leave()
        finally:
            self._num_lonely -= 1
            async with self._changed:
                self._changed.notify_all()

    async def _leave(self) -> None:
        self._num_inside -= 1
        async with self._changed:
            self._changed.notify_all()
