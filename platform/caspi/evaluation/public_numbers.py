"""What others have published on the public Hebrew test sets: for reference, never mixed with what was measured here.

The sets are the sources of jobs/recipes/hebrew_test_sets.yaml and hebrew_common_voice.yaml, under their names there.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from caspi.evaluation import intervals
from caspi.evaluation.results import Results


@dataclass(frozen=True, slots=True)
class PublicSet:
    """How a source of a recipe is known to be a public test set, whatever it is called."""

    path: str
    """A regular expression that is found in the source's path. A mirror keeps the name on the hub, OWNER/NAME."""

    settings: Mapping[str, Any] = field(default_factory=dict)
    """What the source must say besides."""


TEST_SETS = {
    "eval-d1": PublicSet(r"ivrit-ai/eval-d1/.*\btest\b", {"text_column": "text"}),
    "eval-whatsapp": PublicSet(r"ivrit-ai/eval-whatsapp/.*\btest\b", {"text_column": "text"}),
    "saspeech": PublicSet(r"upai-inc/saspeech/.*\btest\b", {"text_column": "text"}),
    "fleurs-he": PublicSet(r"google/fleurs\b.*/he_il/test\b", {"text_column": "transcription"}),
    "common-voice-he": PublicSet(r"\bhe\b", {"kind": "common_voice", "tables": ["test"]}),
    "kan": PublicSet(r"imvladikon/hebrew_speech_kan/.*\bvalidation\b", {"text_column": "sentence"}),
}


@dataclass(frozen=True, slots=True)
class Published:
    """One system's word error rates, as somebody else measured them."""

    system: str
    wer: Mapping[str, float]
    """Test set -> fraction."""

    source: str
    date: str
    """When the source said so."""


def _leaderboard(system: str, *percentages: float, sets: tuple[str, ...] = ()) -> Published:
    sets = sets or ("eval-d1", "eval-whatsapp", "saspeech", "fleurs-he", "kan")
    wer = {name: round(value / 100, 4) for name, value in zip(sets, percentages, strict=True)}
    return Published(system, wer, "ivrit.ai's Hebrew transcription leaderboard, benchmark.csv", "2026-09-27")


PUBLISHED = (
    _leaderboard("Soniox", 4.8, 9.0, 6.5, 17.7, 11.4),
    _leaderboard("ivrit-ai/whisper-large-v3-ct2, 2025-05-13", 5.1, 7.2, 6.4, 17.4, 8.1),
    _leaderboard("ivrit-ai/whisper-large-v3-turbo-ct2, 2025-05-13", 5.3, 7.1, 6.6, 18.1, 8.2),
    _leaderboard("ivrit-ai/whisper-large-v3-turbo-ct2, 2025-04-03", 5.5, 6.1, 7.4, 20.8, 10.0),
    _leaderboard("Amazon Transcribe, batch", 6.6, 10.4, 8.5, 23.0, 9.0),
    _leaderboard("Deepgram Nova-3", 6.7, 12.0, 10.2, 23.3, 21.0),
    _leaderboard("OpenAI gpt-4o-transcribe", 7.3, 12.6, 10.9, 21.0, 39.4),
    _leaderboard("OpenAI gpt-4o-mini-transcribe", 9.0, 15.8, 15.0, 30.0, 46.8),
    _leaderboard("OpenAI whisper-large-v2", 7.7, 12.1, 9.8, 26.6, 16.4),
    _leaderboard("OpenAI whisper-large-v3-turbo", 8.4, 12.8, 10.4, 28.9, 15.6),
    _leaderboard("OpenAI whisper-large-v3", 9.8, 13.2, 9.4, 26.2, 13.4),
    _leaderboard("ElevenLabs Scribe v1", 20.0, 26.4, 6.8, 18.1, 10.9),
    _leaderboard("Google Speech", 21.1, 35.2, 18.9, 38.5, 29.2),
    Published(
        "OpenAI whisper-large-v3",
        {"common-voice-he": 0.232},
        "the same leaderboard as it was kept on the Hugging Face hub, with Common Voice 17",
        "2024-12",
    ),
    Published(
        "thewh1teagle/parakeet-tdt-0.6b-v3-he", {"eval-d1": 0.081, "eval-whatsapp": 0.11}, "its model card", "2026"
    ),
    Published(
        "BuzzASR/hebrew, a whisper-large-v3",
        {"fleurs-he": 0.2858},
        "its authors, EMNLP Findings 2026; another normalization than the leaderboard's",
        "2026",
    ),
)


def measured_row(results: Results) -> dict[str, dict[str, Any]]:
    """A row as the leaderboard has it: WER after ivrit.ai's normalization on each of the test sets that were evaluated.

    With its interval and counts, which the leaderboard lacks. Only sets that were judged whole, as they are written, as
    `evaluate_source` does; empty where none was.
    """
    row = {}
    sources = results.metrics.get("sources") or {}
    utterances = results.utterances.filter(pc.is_valid(results.utterances["ivrit_word_errors"]))
    for name, test_set in TEST_SETS.items():
        called = [source for source, settings in sources.items() if _is(test_set, settings)]
        of_set = utterances.filter(pc.is_in(utterances["source"], pa.array(called, pa.string())))
        if not len(of_set):
            continue
        columns = ("ivrit_word_errors", "ivrit_reference_words")
        errors, words = (of_set[column].to_numpy().astype(np.int64) for column in columns)
        row[name] = {
            "wer": float(errors.sum() / max(1, words.sum())),
            "wer_interval": intervals.ends(
                intervals.interval(errors, words, clusters=of_set["recording_id"].to_pylist())
            ),
            "num_utterances": len(of_set),
            "reference_words": int(words.sum()),
        }
    return row


def _is(test_set: PublicSet, source: Mapping[str, Any]) -> bool:
    return bool(re.search(test_set.path, str(source.get("path")))) and all(
        source.get(name) == value for name, value in test_set.settings.items()
    )


def published_on(test_sets: Mapping[str, Any]) -> list[Published]:
    """Those that say something of one of these test sets, the best on the first of them first."""
    first = next(iter(test_sets), None)
    found = [each for each in PUBLISHED if any(name in test_sets for name in each.wer)]
    return sorted(found, key=lambda each: each.wer.get(str(first), float("inf")))


def describe(row: Mapping[str, Mapping[str, Any]]) -> str:
    """A measured row, and apart from it what others published on the same sets, for the command line."""
    lines = ["measured, after ivrit.ai's normalization:"]
    for name, part in row.items():
        how_sure = intervals.describe(part["wer_interval"])
        lines.append(f"  {name}: WER {part['wer']:.1%} ({how_sure}), {part['num_utterances']} utterances")
    lines.append("published by others, not measured here:")
    for each in published_on(row):
        figures = ", ".join(f"{name} {each.wer[name]:.1%}" for name in row if name in each.wer)
        lines.append(f"  {each.system}: {figures} ({each.source}, {each.date})")
    return "\n".join(lines)
