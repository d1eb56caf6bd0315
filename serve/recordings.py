"""A whole recording through the model: its pieces to all replicas at once, their answers joined in order.

An ingress process holds no more than a window of each recording, whatever its length: `max_window_s`, 64 kB for each
second, and up to six pieces of 2 MB that are cut ahead of it, so that the model need not wait for the next ones.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from weakref import WeakKeyDictionary

from caspi import audio
from caspi.inference.cutting import Piece
from caspi.inference.engine import Clip
from caspi.inference.long_form import Joiner, Segment, Transcript, cut
from caspi.inference.transcription import Transcription
from serve import logs
from serve.backend import Backend
from serve.deadline import by_deadline
from serve.options import Options
from serve.patience import patiently
from serve.schemas import Fields

OnSegment = Callable[[Segment], Awaitable[None] | None]

# Decoding and finding speech give the GIL away. Few at a time leave it, and the CPUs, to the event loop.
NUM_DECODE_THREADS = 4
_decoders = ThreadPoolExecutor(NUM_DECODE_THREADS, thread_name_prefix="decode")

# Pieces that a thread cuts before it comes back: quiet, speech and quiet, which most short recordings are.
_PIECES_AT_ONCE = 3

# Between two tries of a piece that found every queue full. Its recording was let in, and is not given up for that.
LONGEST_PAUSE_S = 1.0

# The first piece of a recording goes to the model at once. What follows shares this much room with all other recordings
# of the process, so that a few long ones never fill the queues that short ones need.
_rooms: WeakKeyDictionary[Backend, asyncio.Semaphore] = WeakKeyDictionary()
_LONG_FORM_SHARE = 0.5  # of `max_in_flight`


async def transcribe_recording(
    backend: Backend,
    source: Path | bytes,
    fields: Fields,
    *,
    name: str,
    options: Options,
    deadline: float,
    on_piece: Callable[[Piece], None] | None = None,
    on_segment: OnSegment | None = None,
) -> Transcript:
    """The transcript of encoded audio, a file of it or its bytes.

    Args:
        name: of the recording, for messages.
        deadline: of a recording without length, `time.monotonic`; its length extends it, see `Options.min_rtfx`.
        on_piece: is given each piece, speech or silence, in the recording's order, as soon as it and all before it are
            answered.
        on_segment: is given each segment in the recording's order, as soon as it and all before it are there.

    Raises:
        AudioError: the recording cannot be used. Segments may have come before.
        ApiError: as `Backend.transcribe`.
    """
    joiner = Joiner()
    asked: asyncio.Queue[_Asked | None] = asyncio.Queue()
    pieces = _pieces(source, fields, name=name, options=options, deadline=deadline)
    caller = _Caller(backend, fields, options, deadline)
    try:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(_ask(pieces, caller, asked, tasks))
            while (next_one := await asked.get()) is not None:
                piece, answer = next_one
                segment = joiner.add(piece, await answer if answer is not None else None)
                if answer is not None:
                    caller.window.leave(piece)
                if on_piece is not None:
                    on_piece(piece)
                if segment is not None and on_segment is not None and (waiting := on_segment(segment)) is not None:
                    await waiting
    except ExceptionGroup as failures:
        raise failures.exceptions[0] from None  # the others are of pieces that nobody needs any more
    return joiner.finish()


_Asked = tuple[Piece, asyncio.Task[Transcription] | None]


async def _ask(
    pieces: AsyncGenerator[Piece, None],
    caller: "_Caller",
    asked: asyncio.Queue[_Asked | None],
    tasks: asyncio.TaskGroup,
) -> None:
    """Send each piece with speech to the model, as far as the window is open."""
    async with contextlib.aclosing(pieces):
        async for piece in pieces:
            if piece.samples is not None:
                await caller.window.enter(piece)
            asked.put_nowait((piece, None if piece.samples is None else tasks.create_task(caller.call(piece))))
    asked.put_nowait(None)


class _Window:
    """The pieces of a recording that are cut and not yet joined: so many seconds, or one longer piece."""

    def __init__(self, max_s: float) -> None:
        self._max_samples = max_s * audio.SAMPLE_RATE
        self._num_samples = 0
        self._has_room = asyncio.Event()

    async def enter(self, piece: Piece) -> None:
        """Wait for room. One at a time."""
        length = piece.end - piece.start
        while self._num_samples and self._num_samples + length > self._max_samples:
            self._has_room.clear()
            await self._has_room.wait()
        self._num_samples += length

    def leave(self, piece: Piece) -> None:
        self._num_samples -= piece.end - piece.start
        self._has_room.set()


class _Caller:
    """Asks the model about the pieces of one recording."""

    def __init__(self, backend: Backend, fields: Fields, options: Options, deadline: float) -> None:
        self._backend = backend
        self._fields = fields
        self._options = options
        self._deadline = deadline
        self._num_called = 0
        self.window = _Window(options.max_window_s)

    async def call(self, piece: Piece) -> Transcription:
        """The piece's transcription, by the deadline that a recording of that length has."""
        self._num_called += 1
        assert piece.samples is not None, "called for speech only"
        clip = Clip(piece.samples, piece.duration_s, self._fields.language, self._fields.prompt, self._fields.log_probs)
        deadline = _extended(self._deadline, piece, self._options)
        if self._num_called == 1:
            return await self._backend.transcribe(clip, deadline=deadline)
        async with self._room():
            return await patiently(
                lambda: self._backend.transcribe(clip, deadline=deadline),
                statuses=(429,),
                deadline=deadline,
                longest_pause_s=LONGEST_PAUSE_S,
            )

    def _room(self) -> asyncio.Semaphore:
        num = max(1, int(_LONG_FORM_SHARE * self._options.max_in_flight))
        return _rooms.setdefault(self._backend, asyncio.Semaphore(num))


async def _pieces(
    source: Path | bytes, fields: Fields, *, name: str, options: Options, deadline: float
) -> AsyncGenerator[Piece, None]:
    """The recording's pieces, cut in threads, a step ahead of what is taken."""
    pieces = cut(source, cutting=fields.cutting, name=name, max_duration_s=options.max_audio_s)
    step: Future[list[Piece]] | None = _decoders.submit(_take, pieces)
    by = deadline
    try:
        while step is not None:
            with logs.current().timing_decode():
                taken = await by_deadline(asyncio.wrap_future(step), by)
            step = _decoders.submit(_take, pieces) if len(taken) == _PIECES_AT_ONCE else None
            for piece in taken:
                by = _extended(deadline, piece, options)
                yield piece
    finally:
        # What the pieces are read from is closed where nobody reads: the thread may be in the middle of it.
        if step is None or step.cancel() or step.done():
            pieces.close()
        else:
            step.add_done_callback(lambda _: pieces.close())


def _take(pieces: Iterator[Piece]) -> list[Piece]:
    return list(islice(pieces, _PIECES_AT_ONCE))


def _extended(deadline: float, piece: Piece, options: Options) -> float:
    """The deadline of a recording that is as long as from its start to the piece's end."""
    return deadline + piece.end / audio.SAMPLE_RATE / options.min_rtfx
