"""Encoded bytes to mono samples at one rate, recognised by content: names and extensions lie too often."""

from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np
import soundfile

from caspi.audio import ffmpeg, sndfile
from caspi.audio.resampling import Resampler
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
    if not encoded:
        raise EmptyAudioError(f"{source}: 0 bytes; expected an audio file")
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
            samples = _take(stream, source, sample_rate, max_duration_s)
    except MemoryError as error:  # first: FFmpeg's is an error of FFmpeg's too
        raise AudioTooLargeError(f"{source}: {container.words} that does not fit in memory") from error
    except soundfile.LibsndfileError as error:
        if "hannel count is zero" in error.error_string:
            raise EmptyAudioError(f"{source}: {container.words} without a channel") from error
        raise _damaged(source, container, encoded, error.error_string) from error
    except ffmpeg.Error as error:
        raise _damaged(source, container, encoded, error.strerror or str(error)) from error
    if not len(samples):
        raise EmptyAudioError(f"{source}: {container.words} with no samples, or less than one at {sample_rate} Hz")
    # NaN and infinity reach the end through every filter, and there are fewest samples here.
    if not np.isfinite(samples).all():
        raise InvalidSamplesError(f"{source}: {container.words} with samples that are NaN or infinite")
    return Audio(samples, sample_rate, stream.sample_rate, stream.codec)


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


def _take(stream: Stream, source: str, sample_rate: int, max_duration_s: float) -> np.ndarray:
    """All samples at `sample_rate`, if they are as many as promised and not too many."""
    rate, promised = stream.sample_rate, stream.num_promised
    if not _LOWEST_RATE <= rate <= _HIGHEST_RATE:
        expected = f"expected {_LOWEST_RATE:,} to {_HIGHEST_RATE:,}"
        raise AudioDecodeError(f"{source}: a sample rate of {rate:,} Hz; {expected}: the header is damaged")
    if promised is not None:
        _check_duration(promised / rate, source, max_duration_s)
    resampler = Resampler(rate, sample_rate, promised)
    num_taken = 0
    for block in stream.blocks:
        num_taken += len(block)
        # A header can lie in both directions, so the bound is checked against what really came too.
        _check_duration(num_taken / rate, source, max_duration_s)
        resampler.add(block)
    if promised is not None and num_taken:
        _check_promise(num_taken, promised, stream, source)
    return resampler.finish()


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
