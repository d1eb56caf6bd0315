"""Is a corpus fit to train on? What a careful person would see in its numbers, with what to do about it."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from caspi.corpus.format import SPLITS
from caspi.corpus.reasons import explain
from caspi.text import language_name

# What is called too little, too much or too loud. None of these refuses anything; they are what people asked for help
# have found to matter, and a corpus on the wrong side of one deserves a look.
_SHORT_H, _SMALL_H = 1.0, 10.0
_MIN_HELD_OUT = 100  # utterances: below, a WER of 20% has an interval of about ten points
_HIGH_REJECTED, _MOST_REJECTED = 0.10, 0.50
_MIN_SPEAKERS = 10
_HIGH_SHARE_OF_ONE_SPEAKER = 0.5
_SHORT_S, _MANY_SHORT = 1.0, 0.10
_LOW_SNR_DB, _LOW_LEVEL_DBFS = 15.0, -40.0
_MANY_CLIPPED = 0.05
_MANY_UNEXPECTED = 0.005  # of all characters
_MANY_ODD_RATES = 0.03
_LOW_SPEECH_SHARE = 0.6
_HIGH_JUDGE_WER = 0.5

Level = Literal["bad", "warning", "note"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing to know before training."""

    level: Level
    title: str
    remedy: str


@dataclass(frozen=True, slots=True)
class Speakers:
    """Who speaks how long, where the sources say so."""

    seconds: Mapping[str, Counter[str]] = field(default_factory=dict)  # split -> speaker -> seconds

    def num(self, *splits: str) -> int:
        """How many different speakers these splits have."""
        return len({speaker for split in splits for speaker in self.seconds.get(split, ())})

    def num_shared(self, split: str) -> int:
        """How many speakers of a held-out split are heard in training."""
        return len(self.seconds.get(split, Counter()).keys() & self.seconds.get("train", Counter()).keys())


Refusals = Mapping[str, Counter[str]]
"""Source -> reason -> how many."""


def examine(manifest: Mapping[str, Any], speakers: Speakers, refusals: Refusals) -> list[Finding]:
    """What there is to say, the worst first. An empty list is a corpus without a blemish."""
    found = [
        *_amount(manifest),
        *_held_out(manifest),
        *_rejected(manifest, refusals),
        *_voices(manifest, speakers),
        *_sound(manifest["statistics"]),
        *_text(manifest),
    ]
    order = {"bad": 0, "warning": 1, "note": 2}
    return sorted(found, key=lambda finding: order[finding.level])


def _amount(manifest: Mapping[str, Any]) -> Iterator[Finding]:
    hours = manifest["splits"]["train"]["hours"]
    if not hours:
        yield Finding("bad", "There is nothing to train on", "Lower `data.splits`, or take `split` from a source.")
    elif hours < _SHORT_H:
        yield Finding(
            "warning",
            f"Very short: {60 * hours:.0f} minutes to train on",
            "Enough to try things out. A model learns a language from tens of hours at least.",
        )
    elif hours < _SMALL_H:
        yield Finding(
            "warning", f"Short: {hours:.1f} hours to train on", "Add sources; expect a model that knows these voices."
        )


def _held_out(manifest: Mapping[str, Any]) -> Iterator[Finding]:
    uses = {"validation": "choose the best model by", "test": "say how good the model is"}
    for split, use in uses.items():
        num_utterances = manifest["splits"][split]["num_utterances"]
        if not num_utterances:
            yield Finding("warning", f"No {split} split: nothing to {use}", f"Raise `data.splits.{split}`.")
        elif num_utterances < _MIN_HELD_OUT:
            yield Finding(
                "warning" if split == "test" else "note",
                f"Only {_counted(num_utterances, 'utterance')} in {split}",
                f"Its word error rate will be a rough figure. Raise `data.splits.{split}`.",
            )


def _rejected(manifest: Mapping[str, Any], refusals: Refusals) -> Iterator[Finding]:
    share = rejected_share(manifest)
    if share > _HIGH_REJECTED:
        reason, count = _main(manifest["rejected_by_reason"])
        yield Finding(
            "bad" if share > _MOST_REJECTED else "warning",
            f"{share:.0%} was rejected, mostly as {reason} ({count:,})",
            f"{explain(reason).meaning} {explain(reason).remedy}",
        )
    for name, source in manifest["sources"].items():
        reasons = refusals.get(name, Counter())
        because = "; mostly {} ({:,})".format(*_main(reasons)) if reasons else ""
        if not source["num_utterances"]:
            yield Finding("bad", f"The source {name} gave nothing{because}", "Look at its rejections below.")
        elif len(manifest["sources"]) > 1 and _share(source["num_rejected"], source["num_utterances"]) > _MOST_REJECTED:
            yield Finding(
                "warning", f"More than half of the source {name} was rejected{because}", "Look at its rejections below."
            )


def _voices(manifest: Mapping[str, Any], speakers: Speakers) -> Iterator[Finding]:
    statistics = manifest["statistics"]
    num_speakers = speakers.num(*SPLITS)
    known = statistics["num_with_speaker"] / max(statistics["num_utterances"], 1)
    if not num_speakers:
        yield Finding(
            "note", "Nobody says who speaks", "Held-out recordings may be of voices that training hears as well."
        )
        return
    if num_speakers < _MIN_SPEAKERS and known > 0.9:
        yield Finding(
            "warning",
            f"Only {_counted(num_speakers, 'speaker')}",
            "The model will know these voices and hardly any other. Add sources with more people.",
        )
    everyone: Counter[str] = sum(speakers.seconds.values(), Counter())
    (speaker, seconds), share = everyone.most_common(1)[0], 0.0
    share = seconds / (3600 * statistics["hours"])
    if share > _HIGH_SHARE_OF_ONE_SPEAKER and num_speakers >= _MIN_SPEAKERS:
        yield Finding(
            "warning", f"One speaker, {speaker}, says {share:.0%} of it", "Add others, or take less of this one."
        )
    shared = speakers.num_shared("test")
    if shared:
        yield Finding(
            "note",
            f"{shared} of {_counted(speakers.num('test'), 'test speaker')} are also heard in training",
            "The test says little about new voices. `data.splits.by: speaker` keeps each on one side.",
        )


def _sound(statistics: Mapping[str, Any]) -> Iterator[Finding]:
    num_utterances = max(statistics["num_utterances"], 1)
    clipped = statistics["num_clipped"] / num_utterances
    if clipped > _MANY_CLIPPED:
        yield Finding(
            "warning",
            f"{clipped:.0%} of the utterances are clipped",
            "They were recorded too loud. Lower `data.filters.max_clipped_share` to leave the worst out.",
        )
    low = [(name, _median(source, "snr_db")) for name, source in statistics["sources"].items()]
    low = [(name, snr) for name, snr in low if snr is not None and snr < _LOW_SNR_DB]
    if low:
        yield Finding(
            "warning",
            "Noisy: the median signal-to-noise ratio is " + ", ".join(f"{snr:.0f} dB in {name}" for name, snr in low),
            "Listen to a few. Good for a model that must bear noise; `data.filters.min_snr_db` leaves the worst out.",
        )
    level = _median(statistics, "level_dbfs")
    if level is not None and level < _LOW_LEVEL_DBFS:
        yield Finding(
            "warning",
            f"Very soft: half of the utterances lie below {level:.0f} dBFS",
            "Listen: somebody may be far from the microphone, or the wrong channel was recorded.",
        )
    speech = _median(statistics, "speech_share")
    if speech is not None and speech < _LOW_SPEECH_SHARE:
        yield Finding(
            "warning",
            f"Half of the utterances are less than {speech:.0%} speech",
            "Cut the silence away with `data.cutting.trim_silence`.",
        )
    narrow = sum(each["hours"] for rate, each in statistics["native_sample_rates"].items() if int(rate) < 16000)
    if narrow > statistics["hours"] / 2:
        yield Finding(
            "note",
            f"{narrow / statistics['hours']:.0%} was recorded below 16 kHz",
            "Good for telephones. A model for other microphones should hear wider sound too.",
        )


def _text(manifest: Mapping[str, Any]) -> Iterator[Finding]:
    statistics = manifest["statistics"]
    short = share_below(statistics, "duration_s", _SHORT_S)
    if short > _MANY_SHORT:
        yield Finding(
            "warning",
            f"{short:.0%} of the utterances are shorter than {_SHORT_S:.0f} s",
            "Single words teach little. Raise `data.filters.min_duration_s`, or join neighbours with `data.cutting`.",
        )
    rate = _median(statistics, "chars_per_s")
    if rate:
        odd = share_below(statistics, "chars_per_s", rate / 4) + 1 - share_below(statistics, "chars_per_s", 2.5 * rate)
        if odd > _MANY_ODD_RATES:
            yield Finding(
                "warning",
                f"{odd:.0%} of the utterances have far more or far less text than their length suggests",
                f"The median is {rate:.0f} characters per second. Narrow `data.filters.max_chars_per_s` and `min_`.",
            )
    unexpected = [each for each in statistics["characters"] if each["is_unexpected"]]
    share = sum(each["count"] for each in unexpected) / max(statistics["num_chars"], 1)
    if share > _MANY_UNEXPECTED:
        some = " ".join(each["character"] for each in unexpected[:12])
        yield Finding(
            "warning",
            f"{share:.1%} of the characters do not belong to {language_names(statistics)}: {some}",
            "See the alphabet below. Raise `data.filters.min_script_share`, or correct the transcripts.",
        )
    judged = _median(statistics, "judge_wer")
    if judged is not None and judged > _HIGH_JUDGE_WER:
        yield Finding(
            "warning",
            f"The model that checks meanings disagrees: median WER {judged:.0%}",
            "Listen to a few. Either the transcripts are wrong, or the model is too weak to judge them.",
        )


# --- numbers ----------------------------------------------------------------------------------------------------------


def rejected_share(manifest: Mapping[str, Any]) -> float:
    """Refusals, whole rows or segments, as a share of all outcomes."""
    return _share(sum(manifest["rejected_by_reason"].values()), manifest["num_utterances"])


def language_names(statistics: Mapping[str, Any]) -> str:
    """`Hebrew`, or `Hebrew and English`: what is spoken, most first."""
    return " and ".join(map(language_name, statistics["languages"]))


def share_below(statistics: Mapping[str, Any], quantity: str, bound: float) -> float:
    """The share of utterances below a bound, as exactly as the histogram tells."""
    numbers = statistics["quantities"].get(quantity)
    if not numbers:
        return 0.0
    histogram = numbers["histogram"]
    below = 0.0
    for place, count in enumerate(histogram["counts"]):
        start = histogram["start"] + place * histogram["bin_width"]
        below += count * min(max((bound - start) / histogram["bin_width"], 0.0), 1.0)
    return below / sum(histogram["counts"])


def _median(numbers: Mapping[str, Any], quantity: str) -> float | None:
    found = numbers["quantities"].get(quantity)
    return float(found["quantiles"]["p50"]) if found else None


def _share(part: int, rest: int) -> float:
    return part / max(part + rest, 1)


def _main(reasons: Mapping[str, int]) -> tuple[str, int]:
    return min(reasons.items(), key=lambda pair: (-pair[1], pair[0]))


def _counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}" + ("" if count == 1 else "s")
