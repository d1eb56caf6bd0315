"""A whole recording through the model: its pieces to all replicas at once, their answers joined in order."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

from caspi import audio
from caspi.inference.long_form import Segment, Transcript, Usage
from serve.backend import Backend
from serve.batching import Clip
from serve.deadline import by_deadline
from serve.options import Options
from serve.schemas import Fields

OnSegment = Callable[[Segment], Awaitable[None] | None]


async def transcribe_recording(
    backend: Backend,
    source: Path | bytes,
    fields: Fields,
    *,
    name: str,
    options: Options,
    deadline: float,
    on_segment: OnSegment | None = None,
) -> Transcript:
    """The transcript of encoded audio, a file of it or its bytes.

    Args:
        name: of the recording, for messages.
        deadline: of a recording without length, `time.monotonic`; its length extends it, see `Options.min_rtfx`.
        on_segment: is given each segment in the recording's order, as soon as it and all before it are there.

    Raises:
        AudioError: the recording cannot be used.
        ApiError: as `Backend.transcribe`.
    """
    encoded = source if isinstance(source, bytes) else source.read_bytes()
    decoding = asyncio.to_thread(audio.decode, encoded, source=name, max_duration_s=options.max_audio_s)
    recording = await by_deadline(decoding, deadline)
    duration_s = recording.duration_s
    clip = Clip(recording.samples, duration_s, fields.language, fields.prompt)
    answer = await backend.transcribe(clip, deadline=deadline)
    segments = (Segment(0.0, duration_s, answer.text, answer.language),) if answer.text else ()
    for segment in segments:
        if on_segment is not None and (waiting := on_segment(segment)) is not None:
            await waiting
    return Transcript(
        answer.text, answer.language, duration_s, duration_s, segments, Usage(duration_s, speech_s=duration_s)
    )
