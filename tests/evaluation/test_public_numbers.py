"""Figures of others, and what was measured on the same sets."""

import pytest

from caspi.evaluation.public_numbers import PUBLISHED, TEST_SETS, describe, measured_row, published_on
from tests.evaluation.made_up import evaluated


def test_a_row_takes_ivrit_ais_normalization_and_each_set_for_itself():
    answers = {
        "a": ("צה״ל הודיע", 'צה"ל הודיע'),  # theirs makes two words of the first
        "b": ("שלום", "שלום"),
        "c": ("שלום לך", "שלום לכם"),
        "d": ("שלום", "לא"),
    }
    sources = {"a": "eval-d1", "b": "eval-d1", "c": "fleurs-he", "d": "ours"}
    row = measured_row(evaluated(answers, sources=sources))
    assert list(row) == ["eval-d1", "fleurs-he"]
    assert row["eval-d1"]["wer"] == pytest.approx(2 / 4)
    assert (row["eval-d1"]["reference_words"], row["eval-d1"]["num_utterances"]) == (4, 2)
    assert row["fleurs-he"]["wer"] == pytest.approx(1 / 2)


def test_without_a_public_set_there_is_no_row():
    assert measured_row(evaluated({"a": ("שלום", "שלום")})) == {}


def test_every_published_figure_has_a_source_a_date_and_a_known_set():
    for each in PUBLISHED:
        assert each.source and each.date
        assert each.wer and set(each.wer) <= set(TEST_SETS)
        assert all(0 < wer < 1 for wer in each.wer.values())


def test_published_figures_stand_apart_from_measured_ones():
    row = measured_row(evaluated({"a": ("שלום", "שלום")}, sources={"a": "fleurs-he"}))
    measured, published = describe(row).split("published by others, not measured here:\n")
    assert measured.startswith("measured, after ivrit.ai's normalization:\n  fleurs-he: WER 0.0%")
    assert published.splitlines()[0].startswith("  ivrit-ai/whisper-large-v3-ct2, 2025-05-13: fleurs-he 17.4% (")
    assert all("2026" in line for line in published.splitlines())
    assert all("fleurs-he" in each.wer for each in published_on(row))
