"""What a corpus is like, in numbers: how long, how fast, how loud, how noisy, in which letters and words.

Counted shard by shard where the rows lie, and added up: counts, sums of whole numbers and extremes, so that the order
of the shards and the machines that counted them leave no trace in the result.
"""

import math
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from caspi.audio import SAMPLE_RATE
from caspi.corpus.format import SPLITS
from caspi.text.registry import find_language

QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)

CLIPPED_SHARE = 0.001
"""An utterance with more of its samples at full scale counts as clipped: a millisecond in every second is heard."""

_MAX_WORDS_COUNTED = 5000  # per table
_MAX_WORDS_NAMED = 200
_MAX_CHARACTERS_NAMED = 500  # Chinese has thousands; the rare ones would bury the manifest


@dataclass(frozen=True, slots=True)
class Quantity:
    """Something that every utterance has one of, and the bins it is counted in. What lies outside goes to the last bin
    on its side; extremes are kept exactly."""

    name: str
    unit: str
    start: float
    stop: float
    width: float  # of the bins that are counted: quantiles are this exact
    num_joined: int  # bins that the manifest's histogram shows as one

    def bins(self, values: np.ndarray) -> np.ndarray:
        """(num_values,) float -> (num_values,) the bin of each."""
        # The small term keeps 0.3 out of the bin below, where its division by 0.05 would put it.
        places = np.floor((values - self.start) / self.width + 1e-6).astype(np.int64)
        return np.clip(places, 0, round((self.stop - self.start) / self.width) - 1)


QUANTITIES = (
    Quantity("duration_s", "s", 0.0, 1200.0, 0.05, 10),
    Quantity("chars_per_s", "characters/s", 0.0, 100.0, 0.1, 5),
    Quantity("snr_db", "dB", -30.0, 80.0, 0.25, 4),
    Quantity("level_dbfs", "dBFS", -120.0, 0.0, 0.25, 4),
    Quantity("speech_share", "of the duration", 0.0, 1.0, 0.01, 5),
    Quantity("judge_wer", "WER", 0.0, 2.0, 0.01, 5),
)


@dataclass(slots=True)
class Distribution:
    """How often each bin of a quantity occurs."""

    counts: Counter[int] = field(default_factory=Counter)  # sparse: few of 24,000 bins of duration are ever used
    low: float = math.inf
    high: float = -math.inf

    @classmethod
    def of(cls, quantity: Quantity, values: np.ndarray) -> "Distribution":
        """Count (num_values,) float values. NaN means not measured, and is not counted."""
        values = values[~np.isnan(values)]
        if not len(values):
            return cls()
        bins, counts = np.unique(quantity.bins(values), return_counts=True)
        return cls(
            Counter(dict(zip(bins.tolist(), counts.tolist(), strict=True))), float(values.min()), float(values.max())
        )

    def add(self, other: "Distribution") -> None:
        self.counts.update(other.counts)
        self.low = min(self.low, other.low)
        self.high = max(self.high, other.high)

    def to_json(self, quantity: Quantity) -> dict[str, Any] | None:
        """Extremes, quantiles and a histogram without its empty ends; None where nothing was measured."""
        if not self.counts:
            return None
        return {
            "num_measured": self.counts.total(),
            "min": _rounded(self.low),
            "max": _rounded(self.high),
            "quantiles": {f"p{round(100 * share):02d}": self.quantile(quantity, share) for share in QUANTILES},
            "histogram": self._histogram(quantity),
        }

    def quantile(self, quantity: Quantity, share: float) -> float:
        """The value that this share of the utterances lies below, to within a bin's width."""
        wanted = share * self.counts.total()
        before = 0
        for place, count in sorted(self.counts.items()):
            if before + count >= wanted:
                value = quantity.start + quantity.width * (place + (wanted - before) / count)
                return _rounded(min(max(value, self.low), self.high))
            before += count
        raise AssertionError("a share is at most 1")

    def _histogram(self, quantity: Quantity) -> dict[str, Any]:
        joined: Counter[int] = Counter()
        for place, count in self.counts.items():
            joined[place // quantity.num_joined] += count
        first, last = min(joined), max(joined)
        width = quantity.width * quantity.num_joined
        return {
            "unit": quantity.unit,
            "start": _rounded(quantity.start + first * width),
            "bin_width": _rounded(width),
            "counts": [joined[place] for place in range(first, last + 1)],
        }


@dataclass(slots=True)
class Part:
    """The utterances of one split and source."""

    num_utterances: int = 0
    num_samples: int = 0
    num_clipped: int = 0
    num_with_speaker: int = 0
    num_with_digits: int = 0
    num_with_latin: int = 0
    num_chars: int = 0
    speech_ms: int = 0  # whole numbers: a sum of floats depends on its order
    num_speech_samples: int = 0  # of the utterances in which speech was looked for
    distributions: dict[str, Distribution] = field(default_factory=dict)

    def add(self, other: "Part") -> None:
        for name in _SUMS:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for name, distribution in other.distributions.items():
            self.distributions.setdefault(name, Distribution()).add(distribution)

    def to_json(self) -> dict[str, Any]:
        found = {quantity.name: self._distribution(quantity) for quantity in QUANTITIES}
        return {
            "num_utterances": self.num_utterances,
            "hours": _hours(self.num_samples),
            "num_clipped": self.num_clipped,
            "num_with_speaker": self.num_with_speaker,
            "num_with_digits": self.num_with_digits,
            "num_with_latin_letters": self.num_with_latin,
            "num_chars": self.num_chars,
            "speech_hours": round(self.speech_ms / 3_600_000, 6) if self.num_speech_samples else None,
            "hours_searched_for_speech": _hours(self.num_speech_samples),
            "quantities": {name: numbers for name, numbers in found.items() if numbers},
        }

    def _distribution(self, quantity: Quantity) -> dict[str, Any] | None:
        return self.distributions.get(quantity.name, Distribution()).to_json(quantity)


_SUMS = tuple(name for name in Part.__slots__ if name != "distributions")


@dataclass(slots=True)
class Statistics:
    """Numbers about utterances that add up: `merge` of parts is what `of` the whole would have given.

    Words are the exception. A table remembers the 5,000 that are most frequent in it, so for a corpus of one shard they
    are exact, and over many shards a close approximation: too low for words that a shard left out.
    """

    parts: dict[tuple[str, str], Part] = field(default_factory=dict)  # by split and source
    languages: dict[str, Counter[str]] = field(default_factory=dict)  # code -> utterances and samples
    codecs: dict[str, Counter[str]] = field(default_factory=dict)
    native_sample_rates: dict[str, Counter[str]] = field(default_factory=dict)
    characters: Counter[str] = field(default_factory=Counter)
    words: Counter[str] = field(default_factory=Counter)
    num_words: int = 0

    @classmethod
    def of(cls, table: pa.Table) -> "Statistics":
        """The statistics of a table in SHARD_SCHEMA. The audio is not looked at and may be missing."""
        if not len(table):
            return cls()
        samples = np.rint(_numbers(table, "duration_s") * SAMPLE_RATE).astype(np.int64)
        text = "\n".join(table["text"].to_pylist())
        words = _count_words(text)
        return cls(
            parts=dict(_parts(table, samples)),
            languages=_sums_by(table["language"], samples),
            codecs=_sums_by(table["codec"], samples),
            native_sample_rates=_sums_by(pc.cast(table["native_sample_rate"], pa.string()), samples),
            characters=_count_characters(text),
            words=Counter(dict(_most_common(words, _MAX_WORDS_COUNTED))),
            num_words=words.total(),
        )

    @classmethod
    def merge(cls, many: Iterable["Statistics"]) -> "Statistics":
        """The sum of statistics, in whatever order they come. One at a time is held."""
        whole = cls()
        for one in many:
            for key, part in one.parts.items():
                whole.parts.setdefault(key, Part()).add(part)
            for mine, theirs in (
                (whole.languages, one.languages),
                (whole.codecs, one.codecs),
                (whole.native_sample_rates, one.native_sample_rates),
            ):
                for name, sums in theirs.items():
                    mine.setdefault(name, Counter()).update(sums)
            whole.characters.update(one.characters)
            whole.words.update(one.words)
            whole.num_words += one.num_words
        return whole

    def to_json(self) -> dict[str, Any]:
        """For `manifest["statistics"]`: plain values, in an order that depends on nothing but them."""
        sources = sorted({source for _, source in self.parts})
        distinct = [character for character in self.characters if not character.isspace()]
        return {
            **self._sum(SPLITS, sources).to_json(),
            "num_words": self.num_words,
            "languages": _sums_to_json(self.languages),
            "splits": {split: self._sum([split], sources).to_json() for split in SPLITS},
            "sources": {source: _without_histograms(self._sum(SPLITS, [source]).to_json()) for source in sources},
            "codecs": _sums_to_json(self.codecs),
            "native_sample_rates": _sums_to_json(self.native_sample_rates),
            "num_distinct_characters": len(distinct),
            "characters": self._alphabet(),
            "most_frequent_words": [[word, count] for word, count in _most_common(self.words, _MAX_WORDS_NAMED)],
        }

    def _sum(self, splits: Iterable[str], sources: Iterable[str]) -> Part:
        whole = Part()
        wanted = {(split, source) for split in splits for source in sources}
        for key in sorted(wanted & self.parts.keys()):
            whole.add(self.parts[key])
        return whole

    def _alphabet(self) -> list[dict[str, Any]]:
        """Characters, most frequent first; those that nobody expects are named however rare they are."""
        expected = ExpectedCharacters(self.languages)
        named: list[dict[str, Any]] = []
        for character, count in _most_common(self.characters, None):
            is_unexpected = character not in expected
            if (len(named) < _MAX_CHARACTERS_NAMED or is_unexpected) and len(named) < 2 * _MAX_CHARACTERS_NAMED:
                named.append({"character": character, "count": count, "is_unexpected": is_unexpected})
        return named


# --- of one table -----------------------------------------------------------------------------------------------------


def _parts(table: pa.Table, samples: np.ndarray) -> Iterator[tuple[tuple[str, str], Part]]:
    duration_s = samples / SAMPLE_RATE
    speech_s = _numbers(table, "speech_s")
    num_chars = _numbers(table, "num_text_chars")
    with np.errstate(divide="ignore", invalid="ignore"):
        quantities = {
            "duration_s": duration_s,
            "chars_per_s": np.where(samples > 0, num_chars / duration_s, np.nan),
            "snr_db": _numbers(table, "snr_db"),
            "level_dbfs": _numbers(table, "level_dbfs"),
            "speech_share": np.where(samples > 0, speech_s / duration_s, np.nan),
            "judge_wer": _numbers(table, "judge_wer"),
        }
    sums = {
        "num_utterances": np.ones(len(table), np.int64),
        "num_samples": samples,
        "num_clipped": _numbers(table, "clipped_share") > CLIPPED_SHARE,
        "num_with_speaker": _flags(pc.is_valid(table["speaker_id"])),
        "num_with_digits": _flags(pc.match_substring_regex(table["text"], r"\p{Nd}")),
        "num_with_latin": _flags(pc.match_substring_regex(table["text"], r"\p{Latin}")),
        "num_chars": num_chars.astype(np.int64),
        "speech_ms": np.rint(np.nan_to_num(speech_s) * 1000).astype(np.int64),
        "num_speech_samples": np.where(np.isnan(speech_s), 0, samples),
    }
    splits, sources = (table[name].combine_chunks().dictionary_encode() for name in ("split", "source"))
    group = splits.indices.to_numpy() * len(sources.dictionary) + sources.indices.to_numpy()
    for code in np.unique(group):
        here = group == code
        split, source = divmod(int(code), len(sources.dictionary))
        yield (
            (splits.dictionary[split].as_py(), sources.dictionary[source].as_py()),
            Part(
                **{name: int(values[here].sum()) for name, values in sums.items()},
                distributions={
                    quantity.name: Distribution.of(quantity, quantities[quantity.name][here]) for quantity in QUANTITIES
                },
            ),
        )


def _numbers(table: pa.Table, column: str) -> np.ndarray:
    """(num_rows,) float64, NaN for null."""
    numbers: np.ndarray = pc.cast(table[column], pa.float64()).to_numpy()
    return numbers


def _flags(column: pa.ChunkedArray) -> np.ndarray:
    flags: np.ndarray = column.to_numpy()
    return flags


def _sums_by(column: pa.ChunkedArray, samples: np.ndarray) -> dict[str, Counter[str]]:
    """Utterances and samples for each value of a column."""
    names = column.combine_chunks().dictionary_encode()
    codes = names.indices.to_numpy()
    sums = {}
    for code, name in enumerate(names.dictionary.to_pylist()):
        here = codes == code
        sums[name] = Counter({"num_utterances": int(here.sum()), "num_samples": int(samples[here].sum())})
    return sums


def _count_characters(text: str) -> Counter[str]:
    """Every character but line breaks, with which the texts were joined."""
    codes, counts = np.unique(np.frombuffer(text.encode("utf-32-le"), np.uint32), return_counts=True)
    return Counter(
        {chr(code): count for code, count in zip(codes.tolist(), counts.tolist(), strict=True) if code != ord("\n")}
    )


def _count_words(text: str) -> Counter[str]:
    """Words as they stand between spaces, without the punctuation around them; marks alone are no words."""
    counted: Counter[str] = Counter()
    for word, count in Counter(text.split()).items():
        first, last = 0, len(word)
        while first < last and not word[first].isalnum():
            first += 1
        while last > first and unicodedata.category(word[last - 1])[0] not in "LNM":
            last -= 1
        if first < last:
            counted[word[first:last]] += count
    return counted


# --- which characters are expected ------------------------------------------------------------------------------------

# What a transcript in any language may hold beside its own script. Other digits than these are of some script.
_COMMON = frozenset(" 0123456789.,:;!?\"'()-–—/%&+₪$€£°")
_COMMON_BESIDE_CJK = frozenset("。、，！？：；（）「」『』《》〈〉・ー々〇")


class ExpectedCharacters:
    """Which characters belong into transcripts of some languages: their scripts, digits, common punctuation."""

    def __init__(self, languages: Iterable[str]) -> None:
        self._scripts = {script for code in languages for script in find_language(code).scripts}
        self._marks = _COMMON | (_COMMON_BESIDE_CJK if "CJK" in self._scripts else frozenset())

    def __contains__(self, character: str) -> bool:
        if character in self._marks:
            return True
        # The standard library knows no scripts, but Unicode names characters by theirs: HEBREW LETTER ALEF.
        name = unicodedata.name(character, "").replace("-", " ").split()
        return unicodedata.category(character)[0] in "LMNP" and not self._scripts.isdisjoint(name)


# --- small things -----------------------------------------------------------------------------------------------------


def _most_common(counter: Counter[str], limit: int | None) -> list[tuple[str, int]]:
    """Like Counter.most_common, but equal counts come in alphabetical order, not in the order of arrival."""
    return sorted(counter.items(), key=lambda pair: (-pair[1], pair[0]))[:limit]


def _sums_to_json(sums: dict[str, Counter[str]]) -> dict[str, dict[str, Any]]:
    ordered = sorted(sums.items(), key=lambda pair: (-pair[1]["num_samples"], pair[0]))
    return {
        name: {"num_utterances": each["num_utterances"], "hours": _hours(each["num_samples"])} for name, each in ordered
    }


def _without_histograms(numbers: dict[str, Any]) -> dict[str, Any]:
    """A source's numbers: its quantiles say enough."""
    for quantity in numbers["quantities"].values():
        del quantity["histogram"]
    return numbers


def _hours(num_samples: int) -> float:
    return round(num_samples / SAMPLE_RATE / 3600, 6)


def _rounded(value: float) -> float:
    return round(value, 4) + 0.0  # -0.0 and 0.0 are equal, so which of them is an extreme depends on the order
