"""Which rows and utterances are fit to train on. Every refusal is (reason, detail); the bounds stand in the recipe."""

from caspi.audio.measures import Measures
from caspi.corpus.rows import Row
from caspi.recipe.data import Filters
from caspi.text import script_share

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
    if not row.segments and (row.transcript is None or (filters.refuse_empty_text and not row.transcript.strip())):
        return "empty_text", "no transcript"
    return None


def judge_text(text: str, language: str, duration_s: float, filters: Filters) -> Verdict:
    """What can be said of a normalized text and the length of its audio."""
    if filters.refuse_empty_text and not any(character.isalnum() for character in text):
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
    share = script_share(text, language)
    if share is not None and share < filters.min_script_share:
        return (
            "wrong_script",
            f"{share:.0%} of the letters are of the language's script; {filters.min_script_share:.0%} expected",
        )
    return None


def judge_sound(measures: Measures, speech_s: float | None, duration_s: float, filters: Filters) -> Verdict:
    """What can be said of the samples alone."""
    if measures.level_dbfs < filters.min_level_dbfs:
        return "silent", f"{measures.level_dbfs:.1f} dBFS are below {filters.min_level_dbfs}"
    if measures.clipped_share > filters.max_clipped_share:
        return (
            "clipped",
            f"{measures.clipped_share:.1%} of the samples are at full scale; {filters.max_clipped_share:.1%} allowed",
        )
    if filters.min_snr_db is not None and measures.snr_db is not None and measures.snr_db < filters.min_snr_db:
        return "low_snr", f"{measures.snr_db:.1f} dB are below {filters.min_snr_db}"
    if speech_s is not None and speech_s < filters.min_speech_share * duration_s:
        return (
            "little_speech",
            f"{speech_s:.2f} s of speech in {duration_s:.2f} s; {filters.min_speech_share:.0%} expected",
        )
    return None
