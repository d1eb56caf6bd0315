"""What a line or a file does to speech: band limits and codecs that lose something."""

import fractions
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import av
import numpy as np
import soxr
from scipy import signal

from caspi.audio import SAMPLE_RATE
from caspi.recipe.augmentation import BandLimit, Codec

_NUM_TAPS = 401  # falls from 1 to nothing within about 130 Hz


def limit_band(samples: np.ndarray, settings: BandLimit, random: np.random.Generator) -> np.ndarray:
    """The same samples with one of the bands alone."""
    low_hz, high_hz = settings.bands_hz[int(random.integers(len(settings.bands_hz)))]
    # Its filter is symmetric, so that nothing moves.
    return signal.oaconvolve(samples, _band_filter(low_hz, high_hz))[_NUM_TAPS // 2 :][: len(samples)]


@lru_cache(maxsize=16)
def _band_filter(low_hz: float, high_hz: float) -> np.ndarray:
    nyquist_hz = SAMPLE_RATE / 2
    borders_hz = [border for border in (low_hz, high_hz) if 0 < border < nyquist_hz]
    taps: np.ndarray = signal.firwin(_NUM_TAPS, borders_hz, pass_zero=low_hz == 0, fs=SAMPLE_RATE)
    return taps


@dataclass(frozen=True, slots=True)
class _Coder:
    """A codec of FFmpeg's, and what it works with."""

    encoder: str
    decoder: str
    sample_rate: int  # Hz
    format: str  # of the encoder's samples
    options: tuple[tuple[str, str], ...] = ()
    delay: int = 0  # samples that come out before the sound does, where the decoder does not take them off itself


_CODERS = {
    # Complexity 3 of 10, as phones use it: at more, encoding takes twice as long.
    "opus": _Coder("libopus", "libopus", SAMPLE_RATE, "flt", (("application", "voip"), ("compression_level", "3"))),
    "mp3": _Coder("libmp3lame", "mp3float", SAMPLE_RATE, "fltp", (("compression_level", "7"),)),
    "amr": _Coder("libopencore_amrnb", "amrnb", 8000, "s16", delay=40),
    "mu_law": _Coder("pcm_mulaw", "pcm_mulaw", 8000, "s16"),
}
_KBPS_OF_MU_LAW = (64.0, 64.0)

# More than any codec looks ahead: filled up with so much silence, the end of the speech comes out too.
_PADDING = 4096


def code(samples: np.ndarray, settings: Codec, random: np.random.Generator) -> np.ndarray:
    """Encode and decode samples, in memory: as many samples, float32, each where it was."""
    kind = random.choice(settings.kinds)
    rates = {
        "opus": settings.opus_kbps,
        "mp3": settings.mp3_kbps,
        "amr": settings.amr_kbps,
        "mu_law": _KBPS_OF_MU_LAW,
    }
    coder, kbps = _CODERS[kind], random.uniform(*rates[kind])
    narrow = soxr.resample(samples, SAMPLE_RATE, coder.sample_rate) if coder.sample_rate != SAMPLE_RATE else samples
    decoded, sample_rate = _round_trip(np.clip(narrow, -1, 1).astype(np.float32), coder, round(kbps * 1000))
    decoded = decoded[coder.delay :]
    if sample_rate != SAMPLE_RATE:  # libopus decodes to 48 kHz always
        decoded = soxr.resample(decoded, sample_rate, SAMPLE_RATE)
    return decoded[: len(samples)]


def _round_trip(samples: np.ndarray, coder: _Coder, bit_rate: int) -> tuple[np.ndarray, int]:
    """What the decoder makes of what the encoder wrote, with some padding at the end, and its rate."""
    encoder = av.CodecContext.create(coder.encoder, "w")
    encoder.sample_rate, encoder.layout, encoder.format = coder.sample_rate, "mono", coder.format
    encoder.time_base = fractions.Fraction(1, coder.sample_rate)
    encoder.bit_rate, encoder.thread_count, encoder.options = bit_rate, 1, dict(coder.options)
    encoder.open()
    decoder = av.CodecContext.create(coder.decoder, "r")
    decoder.sample_rate, decoder.layout, decoder.thread_count = coder.sample_rate, "mono", 1
    decoder.extradata = encoder.extradata
    fifo = av.AudioFifo()  # joins frames at a fraction of what as many arrays would cost
    packets = (packet for frame in _frames(samples, encoder) for packet in encoder.encode(frame))
    for packet in packets:
        for frame in decoder.decode(packet):
            frame.pts = None
            fifo.write(frame)
    decoded = fifo.read(0)
    assert decoded is not None, f"{coder.encoder} gave nothing for {len(samples)} samples"
    values = decoded.to_ndarray().reshape(-1)
    return values.astype(np.float32) / (2**15 if values.dtype == np.int16 else 1), decoded.sample_rate


def _frames(samples: np.ndarray, encoder: av.AudioCodecContext) -> Iterator[av.AudioFrame | None]:
    """The samples in frames of the size that the encoder wants, the last one filled up, then None: that was all."""
    size = encoder.frame_size or len(samples) + _PADDING
    num_frames = -(-(len(samples) + _PADDING) // size)
    padded = np.zeros(num_frames * size, np.float32)
    padded[: len(samples)] = samples
    values = padded if encoder.format.name.startswith("flt") else np.rint(padded * 32767).astype(np.int16)
    for start in range(0, len(values), size):
        frame = av.AudioFrame.from_ndarray(values[None, start : start + size], encoder.format.name, "mono")
        frame.sample_rate, frame.pts = encoder.sample_rate, start
        yield frame
    yield None
