"""Histograms and spectrograms as pictures for a page: sizes and places here, lines and colours in the template."""

import base64
import math
import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

# --- histograms -------------------------------------------------------------------------------------------------------

WIDTH, HEIGHT = 360, 200  # of the drawing; the page scales it. Small, so that its letters stay readable on a phone
_LEFT, _RIGHT, _TOP, _BOTTOM = 40, 8, 10, 38
_MAX_BARS = 40
_MIN_FOR_A_LINE = 50  # utterances of a held-out split; the outline of fewer is noise


@dataclass(frozen=True, slots=True)
class Bar:
    """One bin, in the drawing's units and in words."""

    x: float
    width: float
    y: float
    height: float
    label: str  # "2 to 4 s"
    counts: tuple[int, ...]  # whole corpus, then each split
    share: float


@dataclass(frozen=True, slots=True)
class Histogram:
    """A quantity over all utterances as bars, and the held-out splits as outlines over them."""

    unit: str
    splits: tuple[str, ...]  # what `Bar.counts` after the first are of
    bars: tuple[Bar, ...]
    outlines: tuple[tuple[str, str], ...]  # split and SVG path
    x_ticks: tuple[tuple[float, str], ...]
    y_ticks: tuple[tuple[float, str], ...]
    median_x: float
    left: int = _LEFT
    right: int = WIDTH - _RIGHT
    base: int = HEIGHT - _BOTTOM
    top: int = _TOP


def draw_histogram(whole: Mapping[str, Any], splits: Mapping[str, Mapping[str, Any]]) -> Histogram:
    """From a quantity's numbers in `manifest["statistics"]`, of the whole corpus and of each split that has any."""
    histogram = whole["histogram"]
    width, first, last = _visible_bins(whole)
    counts = {name: _rebin(each["histogram"], width, first, last) for name, each in splits.items()}
    all_counts = _rebin(histogram, width, first, last)
    shares = all_counts / all_counts.sum()
    outlined = {
        name: each / each.sum()
        for name, each in counts.items()
        if name != "train" and each.sum() >= _MIN_FOR_A_LINE and len(counts) > 1
    }
    # Half the height at least is for the bars: a split of one kind of utterance would flatten them.
    highest = min(max(float(each.max()) for each in (shares, *outlined.values())), 2 * float(shares.max()))
    step = (WIDTH - _LEFT - _RIGHT) / len(shares)
    y_step, y_decimals = tick_step(100 * highest, 4)

    def y_of(share: float) -> float:
        return round(HEIGHT - _BOTTOM - min(share / highest, 1.0) * (HEIGHT - _BOTTOM - _TOP), 2)

    def x_of(value: float) -> float:
        place = min(max(value / width - first, 0.0), len(shares))
        return round(_LEFT + place * step, 2)

    bars = tuple(
        Bar(
            x=round(_LEFT + place * step, 2),
            width=round(max(step - 1, 1.0), 2),
            y=y_of(share),
            height=round(HEIGHT - _BOTTOM - y_of(share), 2),
            label=_range_label(place, len(shares), first, width, histogram["unit"]),
            counts=(int(all_counts[place]), *(int(each[place]) for each in counts.values())),
            share=float(share),
        )
        for place, share in enumerate(shares)
    )
    return Histogram(
        unit=histogram["unit"],
        splits=tuple(counts),
        bars=bars,
        outlines=tuple((name, _outline([y_of(each) for each in of], step)) for name, of in outlined.items()),
        x_ticks=tuple((x_of(value), text) for value, text in _ticks(first * width, (last + 1) * width, 6)),
        y_ticks=tuple(
            (y_of(number * y_step / 100), f"{number * y_step:.{y_decimals}f}%")
            for number in range(int(100 * highest / y_step + 1e-9) + 1)
        ),
        median_x=x_of(whole["quantiles"]["p50"]),
    )


def _visible_bins(whole: Mapping[str, Any]) -> tuple[float, int, int]:
    """Width of the bars, and the numbers of the first and the last, counted from zero.

    A few outliers would press all others into one bar, so what lies far beyond the percentiles goes to the outer bars.
    """
    histogram, quantiles = whole["histogram"], whole["quantiles"]
    margin = 0.25 * (quantiles["p99"] - quantiles["p01"])
    low = max(whole["min"], quantiles["p01"] - margin)
    high = min(whole["max"], quantiles["p99"] + margin)
    width = histogram["bin_width"]
    for joined in (1, 2, 4, 10, 20, 40, 100, 200, 400, 1000, 2400):
        first, last = math.floor(low / (width * joined) + 1e-9), math.floor(high / (width * joined) - 1e-9)
        if last - first < _MAX_BARS:
            break
    return width * joined, first, max(first, last)


def _rebin(histogram: Mapping[str, Any], width: float, first: int, last: int) -> np.ndarray:
    """(num_bars,) int: the counts of a histogram in these bars; what lies outside goes to the outer ones."""
    middles = histogram["start"] + (np.arange(len(histogram["counts"])) + 0.5) * histogram["bin_width"]
    places = np.clip(np.floor(middles / width).astype(int), first, last) - first
    return np.bincount(places, weights=histogram["counts"], minlength=last - first + 1).astype(int)


def _range_label(place: int, num_bars: int, first: int, width: float, unit: str) -> str:
    start, end = _number((first + place) * width), _number((first + place + 1) * width)
    if place == 0:
        return f"up to {end} {unit}"
    return f"{start} {unit} and more" if place == num_bars - 1 else f"{start} to {end} {unit}"


def _outline(heights: Sequence[float], step: float) -> str:
    """Stairs over the bars."""
    parts = [f"M{_LEFT} {HEIGHT - _BOTTOM}"]
    parts += [f"V{y:g}H{round(_LEFT + (place + 1) * step, 2):g}" for place, y in enumerate(heights)]
    return "".join([*parts, f"V{HEIGHT - _BOTTOM}"])


def _ticks(low: float, high: float, num: int) -> list[tuple[float, str]]:
    step, decimals = tick_step(high - low, num)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [(place * step, f"{place * step:.{decimals}f}".replace("-", "−")) for place in range(first, last + 1)]


def tick_step(span: float, num: int) -> tuple[float, int]:
    """A round step that gives at most `num` ticks, and the decimals that its multiples need."""
    power = math.floor(math.log10(span / num))
    step = next(each * 10.0**power for each in (1, 2, 5, 10) if span / (each * 10.0**power) <= num)
    return step, max(0, -math.floor(math.log10(step) + 1e-9))


def _number(value: float) -> str:
    return f"{round(value, 3):g}".replace("-", "−")


# --- spectrograms -----------------------------------------------------------------------------------------------------

_NUM_MELS = 80
_MAX_HZ = 8000
_RANGE_DB = 70.0
_MAX_COLUMNS = 480
_NUM_COLOURS = 64

# Black, violet, red, yellow: the eye reads it as dark to bright, also without seeing colours.
_COLOURS = ((0, 0, 4), (59, 15, 112), (140, 41, 129), (222, 73, 104), (254, 159, 109), (252, 253, 191))


@dataclass(frozen=True, slots=True)
class Spectrogram:
    """A mel spectrogram as a picture."""

    uri: str  # PNG
    width: int
    height: int
    hz_ticks: tuple[tuple[float, str], ...]  # share of the height from above, and what to write there
    s_ticks: tuple[tuple[float, str], ...]  # share of the width


def draw_spectrogram(samples: np.ndarray, sample_rate: int) -> Spectrogram:
    """What the ear hears in (num_samples,) float samples: time to the right, mel upwards, 70 dB from dark to bright."""
    import librosa  # takes seconds to import

    hop = max(sample_rate // 100, math.ceil(len(samples) / _MAX_COLUMNS))
    power = librosa.feature.melspectrogram(
        y=samples, sr=sample_rate, n_fft=512, hop_length=hop, n_mels=_NUM_MELS, fmax=_MAX_HZ
    )
    decibels = librosa.power_to_db(power, ref=np.max, top_db=_RANGE_DB)  # (mels, frames), 0 at the loudest
    levels = np.rint((decibels / _RANGE_DB + 1) * (_NUM_COLOURS - 1)).astype(np.uint8)[::-1]
    mels = librosa.hz_to_mel(np.array([500, 1000, 2000, 4000])) / librosa.hz_to_mel(_MAX_HZ)
    duration_s = len(samples) / sample_rate
    return Spectrogram(
        uri=f"data:image/png;base64,{base64.b64encode(_png(levels)).decode()}",
        width=levels.shape[1],
        height=levels.shape[0],
        hz_ticks=tuple((1 - float(mel), text) for mel, text in zip(mels, ("0.5", "1", "2", "4"), strict=True)),
        s_ticks=tuple((value / duration_s, text) for value, text in _ticks(0.0, duration_s, 6)),
    )


def _png(levels: np.ndarray) -> bytes:
    """(height, width) uint8 places in the palette as a PNG file. Twenty lines, where Pillow would be a dependency."""
    height, width = levels.shape
    stops = np.linspace(0, 1, len(_COLOURS))
    places = np.linspace(0, 1, _NUM_COLOURS)
    palette = np.stack([np.interp(places, stops, channel) for channel in np.array(_COLOURS).T], axis=1)
    # Each line: its difference from the line above, modulo 256, which packs better than the line itself.
    rows = np.diff(levels, axis=0, prepend=np.zeros((1, width), np.uint8))
    lines = np.concatenate([np.full((height, 1), 2, np.uint8), rows], axis=1).tobytes()
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in (
            (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)),
            (b"PLTE", np.rint(palette).astype(np.uint8).tobytes()),
            (b"IDAT", zlib.compress(lines, 9)),
            (b"IEND", b""),
        )
    )
