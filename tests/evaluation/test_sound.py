"""Where the report's sound comes from, and where it goes."""

import base64
from pathlib import Path

import pytest

from caspi.corpus.format import Corpus
from caspi.evaluation import sound
from caspi.evaluation.results import Results
from caspi.evaluation.sound import Sound, collect_sound
from tests.evaluation.hearing import hear


@pytest.fixture
def results(corpus: Corpus) -> Results:
    """Of the fixture's corpus; its sixth utterance cannot be decoded."""
    index = corpus.index("test").to_pylist()
    found = hear(
        [("שלום", "שלום")] * len(index),
        utterance_id=[row["utterance_id"] for row in index],
        shard=[row["shard"] for row in index],
        row=[row["row"] for row in index],
        error=["undecodable_audio" if place == 5 else None for place in range(len(index))],
    )
    found.metrics.update(corpus=str(corpus.path), corpus_fingerprint=corpus.fingerprint)
    return found


def test_a_small_amount_is_within_the_page(results: Results, corpus: Corpus, tmp_path: Path):
    found = collect_sound(results, tmp_path / "report.html")
    assert found.folder == ""
    assert list(found.embedded) == [place for place in range(12) if place != 5]
    row = results.utterances.slice(7, 1).to_pylist()[0]
    (utterance,) = corpus.read_rows(row["shard"], [row["row"]])
    assert base64.b64decode(found.embedded[7]) == utterance.audio
    assert found.places[utterance.utterance_id] == 7
    assert not (tmp_path / "report_audio").exists()


def test_a_large_amount_lies_beside_it(results: Results, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    whole = collect_sound(results, tmp_path / "report.html")
    monkeypatch.setattr(sound, "MAX_EMBEDDED_BYTES", sum(map(len, whole.embedded.values())) // 3)
    found = collect_sound(results, tmp_path / "report.html")
    assert (found.folder, found.embedded, found.places) == ("report_audio", {}, whole.places)
    for place, encoded in whole.embedded.items():
        assert (tmp_path / "report_audio" / f"{place:05d}.flac").read_bytes() == base64.b64decode(encoded)


def test_sound_of_an_earlier_report_does_not_stay(results: Results, tmp_path: Path):
    (tmp_path / "report_audio").mkdir()
    (tmp_path / "report_audio" / "00000.flac").touch()
    collect_sound(results, tmp_path / "report.html")
    assert not (tmp_path / "report_audio").exists()


def test_a_corpus_that_has_changed_is_not_played(results: Results, tmp_path: Path, caplog: pytest.LogCaptureFixture):
    results.metrics["corpus_fingerprint"] = "another one"
    assert collect_sound(results, tmp_path / "report.html") == Sound()
    assert "was prepared anew since" in caplog.text


def test_a_corpus_that_is_gone_is_said(results: Results, tmp_path: Path, caplog: pytest.LogCaptureFixture):
    results.metrics["corpus"] = str(tmp_path / "nowhere")
    assert collect_sound(results, tmp_path / "report.html") == Sound()
    assert "no such folder" in caplog.text


def test_what_came_from_no_corpus_has_no_sound(tmp_path: Path):
    assert collect_sound(hear([("שלום", "שלום")]), tmp_path / "report.html") == Sound()
