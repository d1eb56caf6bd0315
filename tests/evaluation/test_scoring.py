"""From answers to figures."""

from typing import Any

import pytest

from caspi.evaluation.scoring import score_rows, summarize


def row(text: str, hypothesis: str, **values: Any) -> dict[str, Any]:
    return {
        "utterance_id": text, "text": text, "hypothesis": hypothesis, "language": "he", "error": None,
        "duration_s": 2.0, "source": "s", "recording_id": text, "speaker_id": None, "latency_s": 0.1,
        "began_unix_s": 0.0, "ended_unix_s": 1.0,
        "command_unix_s": 0.0, "num_actors": 2, "device": "a CPU, 1 thread", **values,
    }  # fmt: skip


def metrics(*rows: dict[str, Any], **options: bool) -> dict[str, Any]:
    score_rows(rows)
    return summarize(rows, [], **options)


def test_our_normalizer_and_that_of_ivrit_stand_side_by_side():
    rows = [row("צה״ל הודיע", 'צה"ל הודיע'), row("שלום", "שלום")]
    found = metrics(*rows)
    ours, theirs = found["scores"]["caspi"], found["scores"]["ivrit"]
    assert (found["wer"], ours["wer"]) == (0.0, 0.0)
    assert (theirs["word_errors"], theirs["reference_words"]) == (2, 4)  # `צה ל` against `צהל`
    assert ours["normalizer"] == found["normalizer"] == "caspi.text.normalizer('he').scoring"
    assert theirs["normalizer"] == "caspi.text.normalizer('he', 'ivrit').scoring"
    assert (rows[0]["ivrit_word_errors"], rows[0]["ivrit_reference_words"]) == (2, 3)


def test_languages_that_ivrit_has_no_normalizer_for_are_not_in_its_score():
    found = metrics(row("שלום", "שלום"), row("thank you", "thank", language="en"))
    assert found["scores"]["caspi"]["num_utterances"] == 2
    assert found["scores"]["ivrit"]["num_utterances"] == 1
    assert found["normalizer"] == "caspi.text.normalizer('en').scoring+caspi.text.normalizer('he').scoring"
    assert "ivrit" not in metrics(row("thank you", "thank", language="en"))["scores"]


def test_lenient_scores_come_only_when_asked_for_and_are_never_the_headline():
    rows = [row("נולד ב-3 במרץ", "נולד בשלושה במרץ"), row("התכנית", "התוכנית")]
    assert list(metrics(*rows)["scores"]) == ["caspi", "ivrit"]
    found = metrics(*rows, with_lenient=True)
    assert found["wer"] == found["scores"]["caspi"]["wer"] == pytest.approx(3 / 5)
    assert found["scores"]["lenient_numbers"]["word_errors"] == 1
    assert found["scores"]["lenient_spelling"]["word_errors"] == 2
    assert found["scores"]["lenient_numbers"]["normalizer"].endswith("caspi.evaluation.lenient.numbers")


def test_pauses_between_two_runs_do_not_make_a_model_slow():
    spans = [(0.0, 0.0, 2.0), (0.0, 1.0, 3.0), (99.0, 100.0, 101.0)]
    rows = [
        row(
            f"שלום {place}", "שלום", command_unix_s=command, began_unix_s=began, ended_unix_s=ended,
            latency_s=ended - began,
        )
        for place, (command, began, ended) in enumerate(spans)
    ]  # fmt: skip
    found = metrics(*rows)
    assert (found["transcribe_s"], found["audio_s"], found["rtfx"]) == (4.0, 6.0, 1.5)
    assert found["latency_s"] == {"p50": 2.0, "p95": 2.0}


def test_a_model_that_waits_for_audio_is_slow():
    spans = [(0.0, 1.0), (10.0, 11.0)]
    rows = [
        row(f"שלום {place}", "שלום", began_unix_s=began, ended_unix_s=end) for place, (began, end) in enumerate(spans)
    ]
    assert metrics(*rows)["transcribe_s"] == 11.0


def test_clips_without_speech_are_work_too():
    rows, clips = [row("שלום", "שלום")], [row("", "", ended_unix_s=4.0, duration_s=6.0)]
    score_rows(rows)
    score_rows(clips)
    found = summarize(rows, clips)
    assert (found["audio_s"], found["transcribe_s"], found["rtfx"]) == (2.0, 4.0, 2.0)


def test_the_devices_stand_beside_the_speed():
    found = metrics(row("שלום", "שלום"), row("עולם", "עולם", command_unix_s=9.0, num_actors=4, ended_unix_s=86400.0))
    assert found["transcribed"] == {
        "began": "1970-01-01T00:00:00+00:00",
        "ended": "1970-01-02T00:00:00+00:00",
        "on": [{"device": "a CPU, 1 thread", "num_actors": 2}, {"device": "a CPU, 1 thread", "num_actors": 4}],
    }


def test_a_clip_that_could_not_be_used_is_explained_and_in_the_test_set_but_in_no_rate():
    bad = row("עולם", "", error="undecodable_audio")
    found = metrics(row("שלום", "שלום"), bad)
    assert (found["num_utterances"], found["num_failed"]) == (1, 1)
    assert found["failed_by_reason"] == {"undecodable_audio": 1}
    assert found["test_set"]["num_utterances"] == 2
    assert bad["hypothesis"] is None
    assert bad["reference_scored"] == "עולם"
