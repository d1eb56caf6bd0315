"""Error by duration as a picture for a page: sizes and places here, lines and colours in the template."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from caspi.corpus.charts import HEIGHT, WIDTH, tick_step
from caspi.evaluation.intervals import Interval, interval

_LEFT, _RIGHT, _TOP, _BOTTOM = 40, 8, 14, 38
_KINDS = ("substitutions", "deletions", "insertions")

# Wider intervals end at the edge: of a handful of utterances they would press all columns into the ground.
_MAX_OVER_HIGHEST = 1.6


@dataclass(frozen=True, slots=True)
class Rates:
    """Error rates of one system in one band of durations."""

    by_kind: tuple[float, ...]  # substitutions, deletions, insertions; their sum is the WER
    interval: Interval | None
    num_utterances: int

    @property
    def wer(self) -> float:
        return sum(self.by_kind)


@dataclass(frozen=True, slots=True)
class Column:
    """One system in one band, in the drawing's units."""

    system: int
    x: float
    width: float
    y: float  # of its top
    parts: tuple[tuple[str, float, float], ...]  # kind, y, height
    whisker_y: tuple[float, float] | None  # its ends, the lower one first; None where it is not known
    rates: Rates


@dataclass(frozen=True, slots=True)
class Columns:
    """Bands from short to long, each with a column per system."""

    bands: tuple[str, ...]
    unit: str
    columns: tuple[tuple[Column, ...], ...]  # by band
    x_ticks: tuple[tuple[float, str], ...]
    y_ticks: tuple[tuple[float, str], ...]
    left: int = _LEFT
    right: int = WIDTH - _RIGHT
    base: int = HEIGHT - _BOTTOM
    top: int = _TOP


def rates_by_duration(tables: Sequence[pa.Table], bands: Sequence[str]) -> list[list[Rates]]:
    """Of each band (utterances labelled `duration=BAND`) each system's rates; `tables` are rows as of results.py."""
    found: list[list[Rates]] = [[] for _ in bands]
    for table in tables:
        labels = table["slices"].to_pylist()
        recordings = table["recording_id"].to_pylist()
        counts = {kind: _numbers(table, kind) for kind in (*_KINDS, "reference_words")}
        for place, band in enumerate(bands):
            chosen = np.array([f"duration={band}" in (each or ()) for each in labels], bool)
            errors = {kind: counts[kind][chosen] for kind in _KINDS}
            words = counts["reference_words"][chosen]
            clusters = [recording for recording, is_chosen in zip(recordings, chosen, strict=True) if is_chosen]
            found[place].append(
                Rates(
                    tuple(float(each.sum() / max(1, words.sum())) for each in errors.values()),
                    interval(np.sum(list(errors.values()), axis=0), words, clusters=clusters),
                    len(words),
                )
            )
    return found


def draw_columns(bands: Sequence[str], rates: Sequence[Sequence[Rates]]) -> Columns:
    """WER by band, of which some must be above 0. With several systems, their columns stand side by side."""
    wers = [each.wer for band in rates for each in band]
    ends = [each.interval[1] for band in rates for each in band if each.interval]
    highest = min(max([*wers, *ends]), _MAX_OVER_HIGHEST * max(wers))
    step, decimals = tick_step(100 * highest, 4)
    band_width = (WIDTH - _LEFT - _RIGHT) / len(bands)
    width = min(0.8 * band_width / len(rates[0]), 40.0)

    def y_of(rate: float) -> float:
        return round(HEIGHT - _BOTTOM - min(rate / highest, 1.0) * (HEIGHT - _BOTTOM - _TOP), 2)

    def column(band: int, system: int) -> Column:
        each = rates[band][system]
        edges = [y_of(float(rate)) for rate in np.cumsum((0.0, *each.by_kind))]
        middle = _LEFT + (band + 0.5) * band_width
        return Column(
            system=system,
            x=round(middle + (system - len(rates[band]) / 2) * width, 2),
            width=round(width - 1, 2),
            y=edges[-1],
            parts=tuple(
                (kind, high, round(low - high, 2))
                for kind, low, high in zip(_KINDS, edges[:-1], edges[1:], strict=True)
            ),
            whisker_y=None if each.interval is None else (y_of(each.interval[0]), y_of(each.interval[1])),
            rates=each,
        )

    unit = "s" if all(band.endswith(" s") for band in bands) else ""
    return Columns(
        bands=tuple(bands),
        unit=unit,
        columns=tuple(tuple(column(band, system) for system in range(len(rates[band]))) for band in range(len(bands))),
        x_ticks=tuple(
            (round(_LEFT + (place + 0.5) * band_width, 2), band.removesuffix(f" {unit}").replace("-", "–"))
            for place, band in enumerate(bands)
        ),
        y_ticks=tuple(
            (y_of(number * step / 100), f"{number * step:.{decimals}f}%")
            for number in range(int(100 * highest / step + 1e-9) + 1)
        ),
    )


def _numbers(table: pa.Table, column: str) -> np.ndarray:
    """Counts; of a clip that could not be used, 0."""
    return np.array([each or 0 for each in table[column].to_pylist()], np.int64)
