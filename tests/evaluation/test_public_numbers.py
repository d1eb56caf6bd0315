"""Figures of others, and what was measured on the same sets."""

from pathlib import Path
from typing import Any

import pytest

from caspi.evaluation.comparing import compare
from caspi.evaluation.comparison_report import render_comparison
from caspi.evaluation.public_numbers import PUBLISHED, TEST_SETS, describe, measured_row, published_on
from caspi.evaluation.report import render
from caspi.evaluation.results import Results
from caspi.evaluation.sound import Sound
from caspi.evaluation.sources import as_test_set
from caspi.recipe.loading import load_recipe
from tests.evaluation.made_up import Answers, evaluated

D1 = {"path": "hf://datasets/ivrit-ai/eval-d1/**/test-*.parquet", "text_column": "text"}
FLEURS = {"path": "/mirror/google/fleurs/he_il/test/0.parquet", "text_column": "transcription"}
SAME = {"a": ("שלום", "שלום")}


def judged(answers: Answers, called: dict[str, str], sources: dict[str, Any] | None) -> Results:
    """Utterances by the name of their source, and what the recipe said of these."""
    results = evaluated(answers, sources=called, split="test", corpus=None, corpus_fingerprint="", versions=None)
    results.metrics["sources"] = sources
    return results


def test_a_row_takes_ivrit_ais_normalization_and_each_set_for_itself():
    answers = {
        "a": ("צה״ל הודיע", 'צה"ל הודיע'),  # theirs makes two words of the first
        "b": ("שלום", "שלום"),
        "c": ("שלום לך", "שלום לכם"),
        "d": ("שלום", "לא"),
    }
    called = {"a": "d1", "b": "d1", "c": "fleurs", "d": "kan"}
    sources = {"d1": D1, "fleurs": FLEURS, "kan": {"path": "/ours/train.parquet", "text_column": "sentence"}}
    row = measured_row(judged(answers, called, sources))
    assert list(row) == ["eval-d1", "fleurs-he"]
    assert row["eval-d1"]["wer"] == pytest.approx(2 / 4)
    assert (row["eval-d1"]["reference_words"], row["eval-d1"]["num_utterances"]) == (4, 2)
    assert row["fleurs-he"]["wer"] == pytest.approx(1 / 2)


@pytest.mark.parametrize(
    "what",
    [
        {"path": "/ours/kan/train.parquet", "text_column": "sentence"},
        {"path": "hf://datasets/imvladikon/hebrew_speech_kan/data/train-*.parquet", "text_column": "sentence"},
        {"path": "hf://datasets/imvladikon/hebrew_speech_kan/data/validation-*.parquet", "text_column": "other"},
        {"kind": "common_voice", "path": "/cv/he", "tables": ["train"]},
        None,
    ],
)
def test_what_is_only_called_like_a_public_set_has_no_row(what: dict[str, Any] | None):
    assert measured_row(judged(SAME, {"a": "kan"}, {"kan": what} if what else None)) == {}


def test_the_recipes_of_the_public_sets_describe_them():
    recipes = Path(__file__).parents[2] / "jobs" / "recipes"
    for recipe in ("hebrew_test_sets.yaml", "hebrew_common_voice.yaml"):
        for source in as_test_set(load_recipe(recipes / recipe).data, "all").sources:
            settings = source.model_dump(mode="json", exclude_none=True)
            assert list(measured_row(judged(SAME, {"a": "it"}, {"it": settings}))) == [source.name]


def test_on_pages_published_figures_have_a_table_of_their_own():
    results = judged(SAME, {"a": "d1"}, {"d1": D1})
    for html in (render(results, Sound()), compared(results)):
        before, _, published = html.partition("What others published")
        published, _, _ = published.partition("</section>")
        assert "Not measured here" in published
        assert "<td>7.7%</td>" in published and "2026-09-27" in published
        assert "7.7%" not in before and "whisper-large-v2" not in before
    assert "What others published" not in render(judged(SAME, {"a": "d1"}, None), Sound())


def compared(results: Results) -> str:
    systems = {"one": results, "other": results}
    return render_comparison(systems, compare(list(systems.values()), list(systems)).summary, Sound())


def test_every_published_figure_has_a_source_a_date_and_a_known_set():
    for each in PUBLISHED:
        assert each.source and each.date
        assert each.wer and set(each.wer) <= set(TEST_SETS)
        assert all(0 < wer < 1 for wer in each.wer.values())


def test_published_figures_stand_apart_from_measured_ones():
    row = measured_row(judged(SAME, {"a": "fleurs"}, {"fleurs": FLEURS}))
    measured, published = describe(row).split("published by others, not measured here:\n")
    assert measured.startswith("measured, after ivrit.ai's normalization:\n  fleurs-he: WER 0.0%")
    assert published.splitlines()[0].startswith("  ivrit-ai/whisper-large-v3-ct2, 2025-05-13: fleurs-he 17.4% (")
    assert all("2026" in line for line in published.splitlines())
    assert all("fleurs-he" in each.wer for each in published_on(row))
