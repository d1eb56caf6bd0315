"""Work for a client that may leave."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from starlette.requests import Request

from serve.errors import ApiError

T = TypeVar("T")


def start(request: Request, work: Coroutine[Any, Any, T]) -> "asyncio.Task[T]":
    """The work as a task that is cancelled when the client closes its connection. The request's body has been read."""
    task = asyncio.create_task(work)
    watch = asyncio.create_task(_closed(request))
    watch.add_done_callback(lambda _: task.cancel())
    task.add_done_callback(lambda _: watch.cancel())
    return task


async def while_connected(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """The work's result.

    Raises:
        ApiError: 499, for the log, when the client has left.
    """
    task = start(request, work)
    try:
        await asyncio.wait([task])
    finally:
        task.cancel()
    if task.cancelled():
        raise ApiError(499, "The client closed its connection.", code="client_closed_request")
    return task.result()


async def _closed(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
