"""Encoded bytes to mono samples at one rate, recognised by content: names and extensions lie too often."""

import io
from dataclasses import dataclass

import numpy as np
import soundfile
import soxr

from caspi.audio.truncation import missing_end
from caspi.errors import AudioDecodeError, AudioTooLongError, EmptyAudioError

SAMPLE_RATE = 16000
"""What Qwen3-ASR hears, in Hz."""

# Read in blocks and averaged at once, so that eight channels at 192 kHz never lie in memory as a whole.
_BLOCK_S = 30

# libsndfile's frame count for a FLAC stream that does not say its length.
_UNKNOWN_LENGTH = 2**62


@dataclass(frozen=True, slots=True)
class Audio:
    """Decoded sound."""

    samples: np.ndarray  # (num_samples,) float32, nominally in [-1, 1]
    sample_rate: int  # Hz

    @property
    def duration_s(self) -> float:
        """Length in seconds."""
        return len(self.samples) / self.sample_rate


def decode(encoded: bytes, *, source: str, sample_rate: int = SAMPLE_RATE, max_duration_s: float = 10800) -> Audio:
    """Decode a whole recording to mono at `sample_rate`.

    Channels are averaged, not dropped: call-centre recordings put one speaker on each.
    `source` is only for messages: a path, a URL, an utterance id.

    Raises:
        AudioDecodeError: the bytes are not audio that libsndfile can read, stop in the middle, or hold NaN or infinity.
        EmptyAudioError: there are no bytes, or no samples in them.
        AudioTooLongError: longer than `max_duration_s`, by the header or in truth.
    """
    if not encoded:
        raise EmptyAudioError(f"{source}: 0 bytes; expected an audio file")
    try:
        with soundfile.SoundFile(io.BytesIO(encoded)) as file:
            native_rate = file.samplerate
            samples = _read_mono(file, source, max_duration_s)
            problem = missing_end(encoded, file.format, file.frames, len(samples), native_rate)
    except soundfile.LibsndfileError as error:
        raise AudioDecodeError(f"{source}: {_describe(encoded)}: {error.error_string}") from error
    if problem:
        raise AudioDecodeError(f"{source}: stops in the middle: {problem}")
    if not len(samples):
        raise EmptyAudioError(f"{source}: a {native_rate} Hz audio file without samples")
    if not np.isfinite(samples).all():
        raise AudioDecodeError(f"{source}: samples that are NaN or infinite")
    if native_rate != sample_rate:
        samples = soxr.resample(samples, native_rate, sample_rate)
    if not len(samples):
        raise EmptyAudioError(f"{source}: less than one sample at {sample_rate} Hz")
    return Audio(samples, sample_rate)


def _read_mono(file: soundfile.SoundFile, source: str, max_duration_s: float) -> np.ndarray:
    """All samples, channels averaged: (num_samples,) float32 at the file's own rate."""
    rate = file.samplerate
    if file.frames < _UNKNOWN_LENGTH:
        _check_duration(file.frames / rate, source, max_duration_s)
    block = min(_BLOCK_S * rate, file.frames)
    blocks: list[np.ndarray] = []
    num_samples = 0
    while block:
        read = file.read(block, dtype="float32", always_2d=True)  # (T, C)
        blocks.append(read[:, 0] if read.shape[1] == 1 else read.mean(axis=1))  # (T, C) -> (T,)
        num_samples += len(read)
        # A header can lie in both directions, so the bound is checked against what really came too.
        _check_duration(num_samples / rate, source, max_duration_s)
        if len(read) < block or num_samples >= file.frames:
            break
    return np.concatenate(blocks) if blocks else np.zeros(0, np.float32)


def _check_duration(duration_s: float, source: str, max_duration_s: float) -> None:
    if duration_s > max_duration_s:
        raise AudioTooLongError(f"{source}: {duration_s:.0f} s of audio; at most {max_duration_s:.0f} s are allowed")


def _describe(encoded: bytes) -> str:
    """What the bytes look like, for the message: people should hear about AAC, not about an unknown format."""
    start = encoded[:512]
    if start[4:8] == b"ftyp":
        return "an MP4/M4A (AAC) file, which libsndfile cannot read; convert it to FLAC, MP3, Opus or WAV"
    if start[:4] == b"\x1aE\xdf\xa3":
        return "a WebM/Matroska file, which libsndfile cannot read; convert it to FLAC, MP3, Opus or WAV"
    if start[:4] in (b"RIFF", b"fLaC", b"OggS") or start[:3] == b"ID3" or (start[0] == 0xFF and start[1:2] >= b"\xe0"):
        return f"a damaged {len(encoded)}-byte audio file"
    return f"{len(encoded)} bytes that are not audio"
