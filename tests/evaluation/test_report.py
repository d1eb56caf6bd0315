"""The page that people read."""

import re
from typing import Any

import pytest

from caspi.evaluation.report import render
from caspi.evaluation.slices import duration_band


def row(**values: Any) -> dict[str, Any]:
    return {
        "utterance_id": "u1",
        "reference_scored": "בית ספר",
        "hypothesis_scored": "בית",
        "substitutions": 0,
        "deletions": 1,
        "insertions": 0,
        "reference_words": 2,
        "duration_s": 1.0,
        "language": "he",
        "source": "crowd",
        "speaker_id": None,
        "error": None,
        **values,
    }


def metrics(**values: Any) -> dict[str, Any]:
    part = {"wer": 0.5, "cer": 0.4, "wer_interval": [0.4, 0.6], "reference_words": 2, "num_utterances": 1}
    return {
        **part,
        "num_recordings": 1, "substitutions": 0, "deletions": 1, "insertions": 0, "num_hallucinated_on_silence": 0,
        "num_silent": 0, "num_failed": 0, "rtfx": 3.0, "model": "runs/model", "split": "test",
        "normalizer": "he", "corpus_fingerprint": "abc", "slices": {"source": {"crowd": part}},
        **values,
    }  # fmt: skip


def test_the_headline_has_the_interval_and_differences_are_marked_word_by_word():
    page = render(metrics(), [row()])
    assert "50.0% WER" in page
    assert "40.0% to 60.0%" in page
    assert re.search(r"<span>בית</span>\s*<span><del>ספר</del></span>", page)
    assert 'dir="rtl" lang="he"' in page


def test_transcripts_cannot_put_markup_into_the_page():
    attack = "<script>alert(1)</script>"
    page = render(metrics(model=attack), [row(hypothesis_scored=attack, source=attack, insertions=1)])
    assert "<script" not in page


def test_the_page_needs_nothing_from_elsewhere():
    assert not re.search(r"https?://|src=|@import|<link", render(metrics(), [row()]))


def test_a_perfect_model_gets_a_page_too():
    perfect = row(hypothesis_scored="בית ספר", deletions=0)
    zero = {"source": {"crowd": metrics()["slices"]["source"]["crowd"] | {"wer": 0.0}}}
    assert "Nowhere" in render(metrics(wer=0.0, slices=zero), [perfect, row(error="undecodable_audio")])


@pytest.mark.parametrize(
    ("duration_s", "band"), [(0.1, "0-2 s"), (2.0, "0-2 s"), (2.01, "2-5 s"), (30, "20-30 s"), (31, "over 30 s")]
)
def test_a_duration_belongs_to_one_band(duration_s: float, band: str):
    assert duration_band(duration_s) == band
