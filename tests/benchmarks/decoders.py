"""How fast each decoder reads each format, on one thread, and how fast a whole row is made of it.

    python -m tests.benchmarks.decoders [--minutes 5] [--repeats 3] [--audio FILE ...]

`decode` in caspi.audio sends each container to the library that was fastest here among those that are correct: as many
samples as libsndfile finds, and the same ones. Run it again when PyAV or soundfile change, and read both columns.

A line is one way of reading one format: how many seconds of sound it decodes and resamples to 16 kHz in a second, its
length, and its distance in dB from the samples of the format's first way, libsndfile's if it can (90 is rounding).
Below stands what a row costs in `prepare`: decode + resample + FLAC, and by `librosa.load` + `soundfile.write` as WAV.

Without --audio the sound is made up, and codecs find it easier than speech.
"""

import argparse
import io
import time
from collections.abc import Callable
from pathlib import Path

import av
import librosa
import numpy as np
import soundfile
import soxr

from caspi.audio import SAMPLE_RATE, decode, encode_flac

# name: (container, codec, sample rate, channels). libsndfile writes those whose container is in capitals.
FORMATS: dict[str, tuple[str, str, int, int]] = {
    "wav 16k": ("WAV", "PCM_16", 16000, 1),
    "wav 44.1k stereo": ("WAV", "PCM_16", 44100, 2),
    "flac 48k": ("FLAC", "PCM_16", 48000, 1),
    "mp3 44.1k": ("MP3", "MPEG_LAYER_III", 44100, 1),
    "vorbis 44.1k": ("OGG", "VORBIS", 44100, 1),
    "opus 48k": ("ogg", "libopus", 48000, 1),
    "opus 48k webm": ("webm", "libopus", 48000, 1),
    "aac 44.1k m4a": ("mp4", "aac", 44100, 1),
    "aac 44.1k adts": ("adts", "aac", 44100, 1),
}
DEMUXERS = {"WAV": "wav", "FLAC": "flac", "MP3": "mp3", "OGG": "ogg", "webm": "matroska", "mp4": "mov", "adts": "aac"}

Decoded = tuple[np.ndarray, int]


def by_libsndfile(encoded: bytes, demuxer: str) -> Decoded:
    """As soundfile's own users read."""
    samples, sample_rate = soundfile.read(io.BytesIO(encoded), dtype="float32", always_2d=True)
    return samples.mean(axis=1), sample_rate


def by_ffmpeg(encoded: bytes, demuxer: str, codec: str | None = None) -> Decoded:
    """Frame by frame through PyAV, gathered by FFmpeg's queue; `codec` in place of the one FFmpeg would choose."""
    with av.open(io.BytesIO(encoded), format=demuxer) as file:
        stream = file.streams.audio[0]
        decoder = stream.codec_context
        if codec:
            decoder = av.CodecContext.create(codec, "r")
            decoder.options = {"request_sample_fmt": "flt"}
            decoder.extradata, decoder.layout = stream.codec_context.extradata, stream.codec_context.layout
            decoder.sample_rate = stream.codec_context.sample_rate
        decoder.thread_count = 1
        fifo = av.AudioFifo()
        for packet in file.demux(stream):
            for frame in decoder.decode(packet):
                frame.pts = None
                fifo.write(frame)
        frame = fifo.read(0)
        values = frame.to_ndarray()
        if not frame.format.is_planar:
            values = values.reshape(-1, frame.layout.nb_channels).T
        scale = 2.0**-15 if frame.format.name.startswith("s16") else 1.0
        return values.mean(axis=0, dtype=np.float32) * np.float32(scale), frame.sample_rate


def by_libopus(encoded: bytes, demuxer: str) -> Decoded:
    return by_ffmpeg(encoded, demuxer, "libopus")


def seeds_row(encoded: bytes) -> None:
    """One row as it is usually made: librosa, and WAV."""
    samples, _ = librosa.load(io.BytesIO(encoded), sr=SAMPLE_RATE)
    soundfile.write(io.BytesIO(), samples, SAMPLE_RATE, format="WAV")


def made_up(duration_s: float) -> np.ndarray:
    """Vowel-like sound with pauses and a little noise: (num_samples,) float32 at 48 kHz."""
    time_s = np.arange(int(duration_s * 48000)) / 48000
    pitch = 2 * np.pi * np.cumsum(140 + 40 * np.sin(2 * np.pi * 0.7 * time_s)) / 48000
    voice = sum(np.sin(number * pitch) / number for number in range(1, 25))
    syllables = np.clip(np.sin(2 * np.pi * 3.1 * time_s), 0, 1) * (np.sin(2 * np.pi * 0.3 * time_s) > -0.6)
    noise = np.random.default_rng(0).normal(size=len(time_s))
    return (0.1 * voice * syllables + 0.002 * noise).astype(np.float32)


def recorded(paths: list[Path], duration_s: float) -> np.ndarray:
    """The recordings one after another, over and over until it is enough: (num_samples,) float32 at 48 kHz."""
    sounds = [decode(path.read_bytes(), source=str(path), sample_rate=48000).samples for path in paths]
    sound = np.concatenate(sounds)
    return np.tile(sound, int(duration_s * 48000 / len(sound)) + 1)[: int(duration_s * 48000)]


def encode(sound: np.ndarray, container: str, codec: str, sample_rate: int, num_channels: int) -> bytes:
    resampled = sound if sample_rate == 48000 else soxr.resample(sound, 48000, sample_rate)
    encoded = io.BytesIO()
    if container.isupper():
        with soundfile.SoundFile(encoded, "w", sample_rate, num_channels, format=container, subtype=codec) as file:
            for start in range(0, len(resampled), sample_rate):  # libsndfile overflows its stack on a long Vorbis write
                file.write(np.stack([resampled[start : start + sample_rate]] * num_channels, axis=1))
        return encoded.getvalue()
    with av.open(encoded, "w", format=container) as output:
        stream = output.add_stream(codec, rate=sample_rate, layout="mono")
        if codec == "libopus":
            stream.bit_rate = 32000  # as speech is sent; above 64000 Opus leaves its modes for speech
        for start in range(0, len(resampled), sample_rate):
            frame = av.AudioFrame.from_ndarray(
                resampled[None, start : start + sample_rate], format="flt", layout="mono"
            )
            frame.sample_rate, frame.pts = sample_rate, start
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return encoded.getvalue()


def to_16_khz(decoded: Decoded) -> np.ndarray:
    samples, sample_rate = decoded
    return samples if sample_rate == SAMPLE_RATE else soxr.resample(samples, sample_rate, SAMPLE_RATE)


def fastest_s(call: Callable[[], object], repeats: int) -> float:
    """The best of several: what disturbs a measurement only ever makes it slower."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)


def compare(samples: np.ndarray, reference: np.ndarray, num_expected: int) -> str:
    surplus = len(samples) - num_expected
    length = "right length" if surplus == 0 else f"{surplus:+d} samples"
    common = min(len(samples), len(reference))
    distance = float(np.mean((samples[:common] - reference[:common]) ** 2))
    if distance == 0:
        return f"{length}, the first way's samples"
    return f"{length}, {10 * np.log10(float(np.mean(reference**2)) / distance):.0f} dB from the first way's samples"


def benchmark(name: str, encoded: bytes, container: str, duration_s: float, repeats: int) -> None:
    """Print one format's lines."""
    demuxer = DEMUXERS.get(container, container)
    ways: dict[str, Callable[[], np.ndarray]] = {}
    has_opus = "opus" in name
    if container.isupper() or container == "ogg":
        ways["libsndfile"] = lambda: to_16_khz(by_libsndfile(encoded, demuxer))
    ways["FFmpeg"] = lambda: to_16_khz(by_ffmpeg(encoded, demuxer))
    if has_opus:
        ways["libopus by PyAV"] = lambda: to_16_khz(by_libopus(encoded, demuxer))
    ways["caspi decode"] = lambda: decode(encoded, source=name).samples
    reference = None
    for way, call in ways.items():
        samples = call()
        reference = samples if reference is None else reference
        rate = duration_s / fastest_s(call, repeats)
        print(
            f"{name:18} {way:18} {rate:7.0f}x  {compare(samples, reference, round(duration_s * SAMPLE_RATE))}",
            flush=True,
        )
    row = duration_s / fastest_s(lambda: encode_flac(decode(encoded, source=name).samples), repeats)
    try:
        seed = duration_s / fastest_s(lambda: seeds_row(encoded), repeats)
    except Exception as error:  # librosa reads no AAC without an ffmpeg program
        print(f"{name:18} {'row':18} {row:7.0f}x  librosa cannot: {type(error).__name__}")
    else:
        print(f"{name:18} {'row':18} {row:7.0f}x  {row / seed:.1f} times librosa's {seed:.0f}x")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=5, help="length of the recording of each format")
    parser.add_argument("--repeats", type=int, default=3, help="of which the fastest counts")
    parser.add_argument("--formats", nargs="*", choices=FORMATS, default=list(FORMATS), help="default: all")
    parser.add_argument(
        "--audio", nargs="*", type=Path, default=[], help="recordings to encode in place of made-up sound"
    )
    arguments = parser.parse_args()
    duration_s = arguments.minutes * 60
    sound = recorded(arguments.audio, duration_s) if arguments.audio else made_up(duration_s)
    librosa.load(io.BytesIO(encode(sound[:48000], *FORMATS["wav 16k"])), sr=8000)  # it imports at its first call
    print(f"{duration_s:.0f} s of sound, one thread, times real time, best of {arguments.repeats}")
    for name in arguments.formats:
        encoded = encode(sound, *FORMATS[name])
        benchmark(name, encoded, FORMATS[name][0], duration_s, arguments.repeats)


if __name__ == "__main__":
    main()
