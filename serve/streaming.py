"""A transcript while it is made: server-sent events, named as OpenAI's.

transcript.text.delta     each segment's text, as soon as all before it is there; joined they are the text
transcript.text.segment   its times beside it, with response_format verbose_json
transcript.text.done      the whole text, usage, and log probabilities if they were asked for
"""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

from starlette.requests import Request
from starlette.responses import StreamingResponse

from caspi.inference import formats
from caspi.inference.long_form import Segment, Transcript
from serve import connection
from serve.errors import translate
from serve.recordings import OnSegment
from serve.schemas import Fields

logger = logging.getLogger(__name__)

# Proxies close connections on which nothing comes. A line that begins with a colon says nothing.
_QUIET_S = 15.0
_NOTHING = ": \n\n"

Work = Callable[[OnSegment], Coroutine[Any, Any, Transcript]]


async def stream(request: Request, work: Work, fields: Fields) -> StreamingResponse:
    """The answer to a request for events. `work` transcribes and hands on each segment.

    Raises:
        Exception: the work's, if it fails before anything was heard. Later failures are an event.
    """
    segments: asyncio.Queue[Segment | None] = asyncio.Queue()
    task = connection.start(request, work(segments.put))
    task.add_done_callback(lambda _: segments.put_nowait(None))
    try:
        first = await segments.get()
    except asyncio.CancelledError:
        task.cancel()
        raise
    if first is None:
        await task
    headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
    return StreamingResponse(_events(first, segments, task, fields), media_type="text/event-stream", headers=headers)


async def _events(
    first: Segment | None, segments: asyncio.Queue[Segment | None], task: "asyncio.Task[Transcript]", fields: Fields
) -> AsyncIterator[str]:
    number, segment = 0, first
    try:
        while segment is not None:
            yield _event("transcript.text.delta", **formats.as_delta(segment, is_first=number == 0))
            if fields.response_format == "verbose_json":
                times = {"start": round(segment.start_s, 3), "end": round(segment.end_s, 3)}
                # Nobody tells speakers apart here; clients that read the field expect a string.
                yield _event("transcript.text.segment", id=f"seg_{number}", **times, text=segment.text, speaker="")
            number += 1
            while True:
                try:
                    segment = await asyncio.wait_for(segments.get(), _QUIET_S)
                    break
                except TimeoutError:
                    yield _NOTHING
        yield _event("transcript.text.done", **formats.as_json(await task))
    except asyncio.CancelledError:
        if not task.cancelled():
            raise
        # The client has left, and nobody listens any more.
    except Exception as error:
        failure = translate(error)
        logger.error("stream failed after segments=%d error=%s", number, type(error).__name__)
        yield f"event: error\ndata: {json.dumps(failure.body(), ensure_ascii=False)}\n\n"
    finally:
        task.cancel()


def _event(kind: str, **content: Any) -> str:
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **content}, ensure_ascii=False)}\n\n"
