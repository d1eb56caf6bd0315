"""Which rows and utterances are fit to train on. Every refusal is (reason, detail); the bounds stand in the recipe."""

from caspi.corpus.rows import Row
from caspi.recipe.data import Filters

Verdict = tuple[str, str] | None
"""Reason and detail of a refusal; None for what is kept."""


def judge_row(row: Row, filters: Filters) -> Verdict:
    """What can be said before the audio is decoded."""
    if row.problem:
        return row.problem
    for flag in row.flags:
        if flag in filters.refused_flags:
            return flag, "flagged by the source"
    if row.quality_score is not None and row.quality_score < filters.min_quality_score:
        return "low_quality_score", f"{row.quality_score:.3f} is below {filters.min_quality_score}"
    if not row.transcript or not row.transcript.strip():
        return "empty_text", "no transcript"
    return None


def judge_utterance(text: str, duration_s: float, filters: Filters) -> Verdict:
    """What can be said of a normalized text and the length of its audio."""
    if not any(character.isalnum() for character in text):
        return "empty_text", f"no letter or digit in {text[:40]!r}"
    if duration_s < filters.min_duration_s:
        return "too_short", f"{duration_s:.2f} s is below {filters.min_duration_s} s"
    if duration_s > filters.max_duration_s:
        return "too_long", f"{duration_s:.2f} s is above {filters.max_duration_s} s"
    rate = len(text) / duration_s
    if rate < filters.min_chars_per_s:
        return "too_few_characters", f"{rate:.2f} characters per second are below {filters.min_chars_per_s}"
    if rate > filters.max_chars_per_s:
        return "too_many_characters", f"{rate:.1f} characters per second are above {filters.max_chars_per_s}"
    return None
