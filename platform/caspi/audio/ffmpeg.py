"""Decoding by FFmpeg, through PyAV: AAC, MP4, WebM, and Opus, which it reads at twice libsndfile's rate.

Not Vorbis, though it would be half as fast again: FFmpeg takes 16 ms too much or too little at the end of many files.

Only what the sniffing named is opened, only its first audio stream is decoded, on one thread, and no file but the
bytes at hand can be reached: containers may refer to others.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from typing import NoReturn

import av
import numpy as np
from numpy.typing import DTypeLike

from caspi.audio.allocation import limit_allocations
from caspi.audio.sniffing import Container
from caspi.audio.stream import BLOCK_VALUES, Stream, as_file, mix
from caspi.errors import AudioDecodeError

Error = av.error.FFmpegError

# Each stream has tables of its own, whose size is bounded one by one.
_MAX_STREAMS = "8"

# Containers count in their own units, with an encoder's delay in or out; only a clear shortfall counts.
_TOLERANCE_S = 0.5

# The encoder's padding behind the end of an MP4: at most two frames of 2048.
_MAX_PADDING = 4096

# Numbers and one over full scale, by sample format without the `p` of planar ones.
_FORMATS: dict[str, tuple[DTypeLike, float]] = {
    "u8": (np.uint8, 2.0**-7),
    "s16": (np.int16, 2.0**-15),
    "s32": (np.int32, 2.0**-31),
    "s64": (np.int64, 2.0**-63),
    "flt": (np.float32, 1.0),
    "dbl": (np.float64, 1.0),
}


@contextmanager
def open_stream(encoded: bytes, container: Container, source: str) -> Iterator[Stream]:
    """Read the first audio stream of `encoded` by FFmpeg.

    Raises:
        AudioDecodeError: there is no audio stream, or none whose codec is known.
        av.error.FFmpegError: damage, at once or while `blocks` are taken.
    """
    limit_allocations()
    with av.open(
        as_file(encoded),
        "r",
        format=container.demuxer,
        options={"max_streams": _MAX_STREAMS},
        metadata_errors="replace",
        io_open=_refuse,
    ) as file:
        if not file.streams.audio:
            kinds: list[str] = sorted({stream.type for stream in file.streams})
            raise AudioDecodeError(
                f"{source}: {container.words} without an audio stream; it holds {', '.join(kinds) or 'nothing'}"
            )
        stream = file.streams.audio[0]
        if stream.codec_context is None:
            raise AudioDecodeError(f"{source}: {container.words} whose audio codec FFmpeg cannot decode")
        if _is_encrypted(stream):  # it would decode the noise
            raise AudioDecodeError(f"{source}: {container.words} whose sound is encrypted; get one without protection")
        codec = stream.codec_context.codec.canonical_name
        frames = _frames(file, stream, _decoder(stream, codec))
        first = next(frames, None)
        rate = first.sample_rate if first else stream.codec_context.sample_rate or 0
        promised = _num_promised(file, stream, rate)
        num_wanted = promised if container.name == "mp4" else None
        blocks = _blocks(chain([first], frames), num_wanted, source) if first else iter(())
        name = container.name if codec.startswith("pcm_") else codec
        yield Stream(rate, name, promised, int(_TOLERANCE_S * rate), blocks)


def _is_encrypted(stream: av.AudioStream) -> bool:
    try:
        return stream.codec_context.codec_tag in ("enca", "drms")
    except UnicodeDecodeError:  # PyAV expects letters
        return False


def _refuse(url: str, flags: int, options: dict[str, str]) -> NoReturn:
    raise PermissionError(f"the container refers to another file, {url!r}, which is not opened")


def _decoder(stream: av.AudioStream, codec: str) -> av.AudioCodecContext:
    """The decoder for `stream`: FFmpeg's own, but for Opus the reference library.

    FFmpeg's own is a fifth faster, but in the modes for speech its samples differ: they come 2 samples late and 31 dB
    from the reference's. libopus gives what libsndfile gives to the last bit of 24, at twice its rate.
    """
    own = stream.codec_context
    decoder = own
    if codec == "opus" and "libopus" in av.codecs_available:
        decoder = av.CodecContext.create("libopus", "r")
        decoder.options = {"request_sample_fmt": "flt"}
        decoder.extradata = own.extradata
        decoder.sample_rate = own.sample_rate
        decoder.layout = own.layout
    decoder.thread_count = 1
    decoder.thread_type = "NONE"
    return decoder


def _frames(
    file: av.container.InputContainer, stream: av.AudioStream, decoder: av.AudioCodecContext
) -> Iterator[av.AudioFrame]:
    for packet in file.demux(stream):
        yield from decoder.decode(packet)


def _blocks(frames: Iterator[av.AudioFrame], num_wanted: int | None, source: str) -> Iterator[np.ndarray]:
    """Frames gathered into blocks: an array costs as much as the decoding of a frame of 20 ms.

    `num_wanted` ends the last block where the container says that the encoder's padding begins.
    """
    fifo = av.AudioFifo()
    num_taken = 0
    for frame in frames:
        frame.pts = None  # gaps in the time are not filled; what is missing shows in the length
        if not _continues(fifo, frame):
            raise AudioDecodeError(f"{source}: its rate or its channels change in the middle")
        fifo.write(frame)
        if fifo.samples * frame.layout.nb_channels >= BLOCK_VALUES:
            mono = _mono(_all_of(fifo))
            num_taken += len(mono)
            yield mono
    if fifo.samples:
        mono = _mono(_all_of(fifo))
        padding = num_taken + len(mono) - num_wanted if num_wanted is not None else 0
        yield mono[: len(mono) - padding] if 0 < padding <= min(_MAX_PADDING, len(mono)) else mono


def _all_of(fifo: av.AudioFifo) -> av.AudioFrame:
    frame = fifo.read(0)
    assert frame is not None, "the queue is asked when it holds something"
    return frame


def _continues(fifo: av.AudioFifo, frame: av.AudioFrame) -> bool:
    """Is `frame` of the kind of those before it? The queue knows its kind only after the first."""
    if not fifo.samples_written:
        return True
    return bool(
        fifo.sample_rate == frame.sample_rate
        and fifo.format.name == frame.format.name
        and fifo.layout.nb_channels == frame.layout.nb_channels
    )


def _mono(frame: av.AudioFrame) -> np.ndarray:
    dtype, scale = _FORMATS[frame.format.name.removesuffix("p")]
    # The planes as they lie there: `to_ndarray` would copy them. A plane is longer than what it holds.
    channels = 1 if frame.format.is_planar else frame.layout.nb_channels
    columns = [
        column
        for plane in frame.planes
        for column in np.frombuffer(plane, dtype, frame.samples * channels).reshape(-1, channels).T  # (T, C) -> (C, T)
    ]
    if dtype is np.uint8:
        columns = [column.astype(np.float32) - 128 for column in columns]
    return mix(columns, scale)


def _num_promised(file: av.container.InputContainer, stream: av.AudioStream, rate: int) -> int | None:
    """The length that the container speaks of. In raw AAC and the like it is a guess of FFmpeg's, and no promise."""
    if file.format.name in ("aac", "amr", "mp3"):
        return None
    if stream.duration and stream.time_base:
        return round(stream.duration * stream.time_base * rate)
    if file.format.name.startswith("matroska") and file.duration and len(file.streams) == 1:  # one length for all
        return round(file.duration * rate / 1_000_000)
    return None
