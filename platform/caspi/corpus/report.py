"""report.html: one self-contained page that says whether a corpus is fit to train on, for the eye and the ear.

The same corpus gives the same bytes: nothing on the page depends on when, where or how fast it was made.
"""

import base64
import hashlib
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import markupsafe
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from caspi import audio, page
from caspi.corpus.charts import HEIGHT, WIDTH, Histogram, Spectrogram, draw_histogram, draw_spectrogram
from caspi.corpus.findings import Finding, Refusals, Speakers, examine, language_names, rejected_share
from caspi.corpus.format import SPLITS, Corpus, Utterance
from caspi.corpus.reasons import Reason, explain
from caspi.corpus.statistics import CLIPPED_SHARE, QUANTITIES
from caspi.text import language_name

NUM_UTTERANCES = 12
MAX_PLAYED_S = 15.0
"""Longer utterances are heard and seen only so far: the page is to be mailed."""

_EXAMPLES_PER_REASON = 3
_MAX_EXAMPLE_BYTES = 1_000_000  # of all rejected sounds together
_NUM_WORDS = 100

_TITLES = {
    "duration_s": ("Duration", "How long the utterances are."),
    "chars_per_s": (
        "Characters per second",
        "Far from the middle on either side, text and sound may not belong together.",
    ),
    "snr_db": (
        "Signal-to-noise ratio",
        "Estimated from speech and pauses. Above 20 dB is clean, below 10 dB is hard to follow.",
    ),
    "level_dbfs": ("Level", "Mean level under full scale. Most speech lies between −35 and −15 dBFS."),
    "speech_share": ("Share of speech", "By voice activity detection."),
    "judge_wer": ("Disagreement with the model", "Word error rate of the checking model against the transcript."),
}


@dataclass(frozen=True, slots=True)
class Example:
    """A refusal to look at and, where there is sound, to listen to."""

    reason: str
    detail: str
    recording_id: str
    source: str
    text: str | None
    audio_mp3: bytes | None


@dataclass(frozen=True, slots=True)
class Shown:
    """An utterance of the corpus on the page."""

    utterance: Utterance
    sound: str  # data URI
    spectrogram: Spectrogram
    is_cut: bool  # only its beginning


@dataclass(frozen=True, slots=True)
class Rejection:
    """Everything refused for one reason."""

    code: str
    count: int
    share: float  # of all outcomes
    reason: Reason
    by_source: tuple[tuple[str, int], ...]
    examples: tuple[tuple[Example, str | None], ...]  # with a data URI
    num_left_out: int


def write_report(folder: Path, manifest: Mapping[str, Any], examples: Sequence[Example]) -> Path:
    """Write `folder/report.html` for the corpus in `folder`, whose shards, utterances.parquet and rejected.parquet are
    there; its manifest.json need not be."""
    speakers, refusals = _read_speakers(folder), _read_refusals(folder)
    html = render(
        manifest,
        findings=examine(manifest, speakers, refusals),
        num_speakers=speakers.num(*SPLITS),
        rejections=list(_rejections(manifest, refusals, examples)),
        utterances=[_show(utterance) for utterance in _choose(folder, manifest)],
    )
    path = folder / "report.html"
    path.write_text(html, encoding="utf-8")
    return path


def render(
    manifest: Mapping[str, Any],
    *,
    findings: Sequence[Finding],
    num_speakers: int,
    rejections: Sequence[Rejection],
    utterances: Sequence[Shown],
) -> str:
    """The page as HTML."""
    environment = page.environment(Path(__file__).parent)
    environment.filters |= {"code": code, "language_name": language_name, "name": character_name}
    statistics = manifest["statistics"]
    return environment.get_template("report.html.j2").render(
        manifest=manifest,
        statistics=statistics,
        language=language_names(statistics),
        findings=findings,
        verdict=_verdict(findings),
        num_speakers=num_speakers,
        rejected_share=rejected_share(manifest),
        splits=SPLITS,
        charts=list(_charts(statistics)),
        chart_size=(WIDTH, HEIGHT),
        rejections=rejections,
        utterances=utterances,
        words=statistics["most_frequent_words"][:_NUM_WORDS],
        clipped_share=CLIPPED_SHARE,
        max_played_s=MAX_PLAYED_S,
    )


def code(text: str) -> markupsafe.Markup:
    """What stands between backticks as code."""
    parts = [markupsafe.escape(part) for part in text.split("`")]
    return markupsafe.Markup("").join(
        markupsafe.Markup("<code>{}</code>").format(part) if place % 2 else part for place, part in enumerate(parts)
    )


def character_name(character: str) -> str:
    """`U+05D0 hebrew letter alef`, for those who cannot tell by looking."""
    return f"U+{ord(character):04X} {unicodedata.name(character, 'without a name').lower()}"


def _verdict(findings: Sequence[Finding]) -> tuple[str, str]:
    """A level, and the sentence that a person reads first."""
    num_bad = sum(finding.level == "bad" for finding in findings)
    num_warnings = sum(finding.level == "warning" for finding in findings)
    if num_bad:
        return "bad", "Not fit to train on yet"
    if num_warnings:
        return "warning", f"Usable, with {num_warnings} warning" + ("s" if num_warnings > 1 else "")
    return "good", "Fit to train on"


def _charts(statistics: Mapping[str, Any]) -> Iterator[tuple[str, str, str, Mapping[str, Any], Histogram]]:
    """Name, title, explanation, numbers and picture of each quantity that was measured."""
    for quantity in QUANTITIES:
        numbers = statistics["quantities"].get(quantity.name)
        if numbers:
            splits = {
                split: statistics["splits"][split]["quantities"][quantity.name]
                for split in SPLITS
                if quantity.name in statistics["splits"][split]["quantities"]
            }
            title, about = _TITLES[quantity.name]
            yield quantity.name, title, about, numbers, draw_histogram(numbers, splits)


# --- rejections -------------------------------------------------------------------------------------------------------


def _rejections(manifest: Mapping[str, Any], refusals: Refusals, examples: Sequence[Example]) -> Iterator[Rejection]:
    """By reason, the most frequent first."""
    num_outcomes = manifest["num_utterances"] + sum(manifest["rejected_by_reason"].values())
    audible = _within_budget(examples)
    for code, count in sorted(manifest["rejected_by_reason"].items(), key=lambda pair: (-pair[1], pair[0])):
        shown = [place for place, example in enumerate(examples) if example.reason == code][:_EXAMPLES_PER_REASON]
        by_source = {source: reasons[code] for source, reasons in refusals.items() if reasons[code]}
        yield Rejection(
            code,
            count,
            count / num_outcomes,
            explain(code),
            tuple(sorted(by_source.items(), key=lambda pair: (-pair[1], pair[0]))),
            tuple((examples[place], audible.get(place)) for place in shown),
            sum(place not in audible and examples[place].audio_mp3 is not None for place in shown),
        )


def _within_budget(examples: Sequence[Example]) -> dict[int, str]:
    """Sounds that go onto the page, as data URIs by the example's place: one of every reason before any second."""
    seen: Counter[str] = Counter()
    ranked = []
    for place, example in enumerate(examples):
        ranked.append((seen[example.reason], place))
        seen[example.reason] += 1
    chosen: dict[int, str] = {}
    size = 0
    for rank, place in sorted(ranked):
        sound = examples[place].audio_mp3
        if rank < _EXAMPLES_PER_REASON and sound and size + len(sound) <= _MAX_EXAMPLE_BYTES:
            chosen[place] = _mp3_uri(sound)
            size += len(sound)
    return chosen


# --- what lies in the folder ------------------------------------------------------------------------------------------


def _read_speakers(folder: Path) -> Speakers:
    """Who speaks how long. Batch by batch: the words of a large index do not fit into memory at once."""
    seconds: dict[str, Counter[str]] = {split: Counter() for split in SPLITS}
    with pq.ParquetFile(folder / "utterances.parquet") as file:
        for batch in file.iter_batches(2**18, columns=["split", "speaker_id", "duration_s"]):
            sums = pa.table(batch).group_by(["split", "speaker_id"]).aggregate([("duration_s", "sum")])
            for row in sums.to_pylist():
                if row["speaker_id"] is not None:
                    seconds[row["split"]][row["speaker_id"]] += row["duration_s_sum"]
    return Speakers(seconds)


def _read_refusals(folder: Path) -> Refusals:
    found: dict[str, Counter[str]] = {}
    with pq.ParquetFile(folder / "rejected.parquet") as file:
        for batch in file.iter_batches(2**18, columns=["source", "reason"]):
            for row in pa.table(batch).group_by(["source", "reason"]).aggregate([([], "count_all")]).to_pylist():
                found.setdefault(row["source"], Counter())[row["reason"]] += row["count_all"]
    return found


def _choose(folder: Path, manifest: Mapping[str, Any]) -> list[Utterance]:
    """A few utterances of the whole corpus, drawn by a hash of its fingerprint: the same ones each time."""
    num_all, corpus = manifest["num_utterances"], Corpus(folder, dict(manifest))
    drawn: dict[int, None] = {}
    for number in range(100 * NUM_UTTERANCES):
        digest = hashlib.blake2b(f"{manifest['fingerprint']}:{number}".encode(), digest_size=8).digest()
        drawn[int.from_bytes(digest, "big") % num_all] = None
        if len(drawn) == min(NUM_UTTERANCES, num_all):
            break
    with pq.ParquetFile(folder / "utterances.parquet") as file:
        sizes = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
        starts = np.cumsum([0, *sizes])
        chosen = []
        for place in sorted(drawn):
            group = int(np.searchsorted(starts, place, side="right")) - 1
            rows = file.read_row_group(group, columns=["shard", "row"]).slice(place - int(starts[group]), 1).to_pylist()
            chosen += corpus.read_rows(rows[0]["shard"], [rows[0]["row"]])
    return chosen


def _show(utterance: Utterance) -> Shown:
    decoded = audio.decode(utterance.audio, source=utterance.utterance_id)
    samples = decoded.samples[: round(MAX_PLAYED_S * decoded.sample_rate)]
    sound = _mp3_uri(audio.encode_mp3(samples, decoded.sample_rate))
    return Shown(
        utterance, sound, draw_spectrogram(samples, decoded.sample_rate), is_cut=len(samples) < len(decoded.samples)
    )


def _mp3_uri(encoded: bytes) -> str:
    return f"data:audio/mpeg;base64,{base64.b64encode(encoded).decode()}"
