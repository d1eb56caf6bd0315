"""Encoded bytes to mono samples at one rate, recognised by content: names and extensions lie too often."""

import mmap
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import cast

import numpy as np
import soundfile

from caspi.audio import ffmpeg, sndfile
from caspi.audio.resampling import Gatherer, Resampler
from caspi.audio.sniffing import Container, describe, opus_input_rate, sniff
from caspi.audio.stream import Stream
from caspi.audio.truncation import excess, flac_promise, missing_end
from caspi.errors import (
    AudioDecodeError,
    AudioTooLargeError,
    AudioTooLongError,
    EmptyAudioError,
    InvalidSamplesError,
    TruncatedAudioError,
)

SAMPLE_RATE = 16000
"""What Qwen3-ASR hears, in Hz."""

# Nobody records speech outside these; a header that says so lies, and a resampler built for it would be huge.
_LOWEST_RATE, _HIGHEST_RATE = 2000, 768_000

# libsndfile's codes for a container around a codec that it does not know, and for an MP3 that begins in the middle.
_UNKNOWN_CODEC, _UNKNOWN_FORMAT = (3, 4, 18), 1


@dataclass(frozen=True, slots=True)
class Audio:
    """Decoded sound."""

    samples: np.ndarray  # (num_samples,) float32, nominally in [-1, 1]
    sample_rate: int  # Hz
    native_sample_rate: int | None = None  # Hz, of the recording before it was resampled
    codec: str | None = None  # wav, flac, mp3, vorbis, opus, aac, ...

    @property
    def duration_s(self) -> float:
        """Length in seconds."""
        return len(self.samples) / self.sample_rate


@dataclass(frozen=True, slots=True)
class Recording:
    """An open recording."""

    sample_rate: int  # Hz, of `blocks`
    native_sample_rate: int  # Hz, before it was resampled
    codec: str
    promised_s: float | None  # what its header speaks of; None where it is silent
    blocks: Iterator[np.ndarray]  # of (T,) float32, mono, nominally in [-1, 1]; taken once


def decode(encoded: bytes, *, source: str, sample_rate: int = SAMPLE_RATE, max_duration_s: float = 10800) -> Audio:
    """Decode a whole recording to mono at `sample_rate`.

    Channels are averaged, not dropped: call-centre recordings put one speaker on each.
    `source` is only for messages: a path, a URL, an utterance id.

    Memory stays under `max_duration_s * sample_rate * 4` bytes for the result, half as much again for its growing and
    its checking, two copies of `encoded`, and about 32 MB of blocks and tables. Neither the recording's own rate nor
    its channels count, and nothing is believed that a header says.

    Raises:
        AudioDecodeError: the bytes are not audio, or are damaged, or of a codec that we cannot read.
        TruncatedAudioError: they stop in the middle.
        InvalidSamplesError: there is NaN or infinity among the samples.
        EmptyAudioError: there are no bytes, no channels, or no samples in them.
        AudioTooLongError: longer than `max_duration_s`, by the header or in truth.
        AudioTooLargeError: memory does not suffice.
    """
    with open_recording(encoded, source=source, sample_rate=sample_rate, max_duration_s=max_duration_s) as recording:
        gathered = Gatherer(sample_rate, recording.promised_s)
        for block in recording.blocks:
            gathered.add(block)
    return Audio(gathered.finish(), sample_rate, recording.native_sample_rate, recording.codec)


@contextmanager
def open_recording(
    encoded: bytes | mmap.mmap, *, source: str, sample_rate: int = SAMPLE_RATE, max_duration_s: float = 10800
) -> Iterator[Recording]:
    """Decode a recording block by block, in memory that does not grow with its length.

    What `decode` finds at once shows here as it comes: the last blocks of a bad recording raise. A file can be given
    mapped into memory (`mmap`), which holds none of it.

    Raises:
        AudioError: as `decode`, at once or while `blocks` are taken.
    """
    if not encoded:
        raise EmptyAudioError(f"{source}: 0 bytes; expected an audio file")
    # A mapped file is sliced, searched and measured as bytes are, which is all that is asked of either.
    encoded = cast(bytes, encoded)
    container = sniff(encoded)
    if container is None:
        raise AudioDecodeError(f"{source}: {describe(encoded)}; expected an audio file")
    if problem := missing_end(encoded, container):
        raise TruncatedAudioError(f"{source}: {container.words} that stops in the middle: {problem}")
    if problem := excess(encoded, container):
        raise AudioDecodeError(f"{source}: {container.words} whose header is wrong: {problem}")
    try:
        with ExitStack() as stack:
            stream = _open(stack, encoded, container, source, sample_rate)
            rate, promised = stream.sample_rate, stream.num_promised
            _check_rate(rate, source)
            promised_s = None if promised is None else promised / rate
            _check_duration(promised_s or 0.0, source, max_duration_s)
            blocks = _sound(stream, container, source, sample_rate, max_duration_s)
            yield Recording(sample_rate, rate, stream.codec, promised_s, blocks)
    except MemoryError as error:  # first: FFmpeg's is an error of FFmpeg's too
        raise AudioTooLargeError(f"{source}: {container.words} that does not fit in memory") from error
    except soundfile.LibsndfileError as error:
        if "hannel count is zero" in error.error_string:
            raise EmptyAudioError(f"{source}: {container.words} without a channel") from error
        raise _damaged(source, container, encoded, error.error_string) from error
    except ffmpeg.Error as error:
        raise _damaged(source, container, encoded, error.strerror or str(error)) from error


def _open(stack: ExitStack, encoded: bytes, container: Container, source: str, sample_rate: int) -> Stream:
    """Open by the library that reads this kind fastest, as tests/benchmarks/decoders.py measured."""
    if _is_for_ffmpeg(encoded, container, sample_rate):
        return stack.enter_context(ffmpeg.open_stream(encoded, container, source))
    try:
        return stack.enter_context(sndfile.open_stream(encoded, container))
    except soundfile.LibsndfileError as error:
        is_late = container.name == "mp3" and error.code == _UNKNOWN_FORMAT
        if error.code not in _UNKNOWN_CODEC and not is_late:
            raise
        return stack.enter_context(ffmpeg.open_stream(encoded, container, source))


def _is_for_ffmpeg(encoded: bytes, container: Container, sample_rate: int) -> bool:
    if container.codec == "opus":
        # libsndfile decodes Opus at the rate that its header gives, which saves the resampling where it is ours.
        return opus_input_rate(encoded) != sample_rate
    if container.name == "flac":  # libsndfile cannot read one to its end that does not say where that is
        return flac_promise(encoded) == 0
    if container.name == "ogg":
        return container.codec not in ("vorbis", "flac")
    return container.name in ("mp4", "matroska", "adts", "amr", "asf")


def _sound(
    stream: Stream, container: Container, source: str, sample_rate: int, max_duration_s: float
) -> Iterator[np.ndarray]:
    """All samples at `sample_rate`, if they are numbers, some at all, as many as promised and not too many."""
    num_samples = 0
    for block in _resampled(stream, source, sample_rate, max_duration_s):
        # NaN and infinity reach the end through every filter, and there are fewest samples here.
        if not np.isfinite(block).all():
            raise InvalidSamplesError(f"{source}: {container.words} with samples that are NaN or infinite")
        num_samples += len(block)
        yield block
    if not num_samples:
        raise EmptyAudioError(f"{source}: {container.words} with no samples, or less than one at {sample_rate} Hz")


def _resampled(stream: Stream, source: str, sample_rate: int, max_duration_s: float) -> Iterator[np.ndarray]:
    resampler = Resampler(stream.sample_rate, sample_rate)
    num_taken = 0
    for block in stream.blocks:
        num_taken += len(block)
        # A header can lie in both directions, so the bound is checked against what really came too.
        _check_duration(num_taken / stream.sample_rate, source, max_duration_s)
        yield resampler.resample(block)
    if stream.num_promised is not None and num_taken:
        _check_promise(num_taken, stream.num_promised, stream, source)
    yield resampler.finish()


def _check_rate(rate: int, source: str) -> None:
    if not _LOWEST_RATE <= rate <= _HIGHEST_RATE:
        expected = f"expected {_LOWEST_RATE:,} to {_HIGHEST_RATE:,}"
        raise AudioDecodeError(f"{source}: a sample rate of {rate:,} Hz; {expected}: the header is damaged")


def _check_duration(duration_s: float, source: str, max_duration_s: float) -> None:
    if duration_s > max_duration_s:
        raise AudioTooLongError(f"{source}: {duration_s:.0f} s of audio; at most {max_duration_s:.0f} s are allowed")


def _check_promise(num_taken: int, promised: int, stream: Stream, source: str) -> None:
    there = f"{num_taken / stream.sample_rate:.2f} s of the promised {promised / stream.sample_rate:.2f} s are there"
    if num_taken < promised - stream.tolerance:
        raise TruncatedAudioError(f"{source}: stops in the middle: {there}")
    if num_taken > promised + stream.tolerance:
        raise AudioDecodeError(f"{source}: {there}: the header is wrong, or two recordings were joined into one")


def _damaged(source: str, container: Container, encoded: bytes, problem: str) -> AudioDecodeError:
    return AudioDecodeError(f"{source}: {container.words} of {len(encoded)} bytes, damaged: {problem}")
