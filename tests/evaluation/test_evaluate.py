"""A split through a model, and what is written about it."""

import functools
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from caspi.corpus.format import Corpus
from caspi.errors import CorpusError, ModelError, RequestError, ResultsError
from caspi.evaluation import evaluate, score, transcribing
from caspi.inference.transcription import Transcription
from tests.evaluation.conftest import make_row, write_corpus
from tests.evaluation.listener import Listener

pytestmark = pytest.mark.usefixtures("ray_2_cpus")


class HearsTheLevel:
    """Says the number that the conftest wrote as a level, but errs on 3 and speaks into the silence of 7."""

    def transcribe_batch(
        self, clips: Sequence[np.ndarray], *, languages: Sequence[str | None] | None = None
    ) -> list[Transcription]:
        assert list(languages or []) == ["he"] * len(clips)
        return [
            Transcription(self._text(round(float(clip.mean()) * 100)), "Hebrew", len(clip) / 16000) for clip in clips
        ]

    def _text(self, number: int) -> str:
        return {3: "המספר היה שלוש"}.get(number, f"המספר הוא {number}")


class HearsNothingIn(HearsTheLevel):
    """Raises an error for clips of one length in which nobody speaks."""

    def __init__(self, seconds: float) -> None:
        self._num_samples = round(seconds * 16000)

    def transcribe_batch(
        self, clips: Sequence[np.ndarray], *, languages: Sequence[str | None] | None = None
    ) -> list[Transcription]:
        if any(len(clip) == self._num_samples and abs(clip.mean()) < 0.005 for clip in clips):
            raise RuntimeError("no")
        return super().transcribe_batch(clips, languages=languages)


class FailsAlways:
    def transcribe_batch(self, clips: Any, *, languages: Any = None) -> list[Transcription]:
        raise ValueError("no kernel image is available")


class Refuses:
    def transcribe_batch(self, clips: Any, *, languages: Any = None) -> list[Transcription]:
        raise RequestError("the endpoint knows no Hebrew")


def test_metrics_rows_and_report_are_written_and_agree(corpus: Corpus, tmp_path: Path):
    output = tmp_path / "evaluation"
    metrics = evaluate("double", corpus, output=output, factory=HearsTheLevel)

    assert json.loads((output / "metrics.json").read_text()) == json.loads(json.dumps(metrics))
    assert (metrics["substitutions"], metrics["insertions"], metrics["reference_words"]) == (2, 3, 30)
    assert metrics["wer"] == pytest.approx(5 / 30)
    assert metrics["num_utterances"] == 11
    assert (metrics["num_failed"], metrics["failed_by_reason"]) == (1, {"undecodable_audio": 1})
    assert (metrics["num_hallucinated_on_silence"], metrics["num_silent"]) == (1, 1)
    assert metrics["corpus_fingerprint"] == "0123abcd"
    assert list(metrics["slices"]["source"]) == ["even", "odd"]
    assert metrics["slices"]["source"]["even"]["wer"] == 0
    assert list(metrics["slices"]["duration"]) == ["0-2 s", "2-5 s", "5-10 s", "10-20 s"]
    assert sum(part["num_utterances"] for part in metrics["slices"]["duration"].values()) == 11
    assert metrics["rtfx"] > 0
    ((device, num_actors),) = (each.values() for each in metrics["transcribed"]["on"])
    assert (device.endswith(("thread", "threads")), num_actors) == (True, 2)
    assert 0 < metrics["latency_s"]["p50"] <= metrics["latency_s"]["p95"]
    assert metrics["system"] == {"name": "double", "kind": "caspi"}
    assert metrics["hallucination"]["by_kind"]["noise"]["num_hallucinated"] == 12, "the double hears 0 in everything"
    assert metrics["hallucination"]["words_on_silence"] == 3 * (20 + 1)

    rows = pq.read_table(output / "utterances.parquet").to_pylist()
    assert [row["utterance_id"] for row in rows] == corpus.index("test")["utterance_id"].to_pylist()
    assert rows[3]["hypothesis"] == "המספר היה שלוש"
    assert rows[3]["wer"] == pytest.approx(2 / 3)
    assert rows[0]["speaker_id"] == "דנה"
    assert (rows[0]["shard"], rows[0]["row"], rows[11]["row"]) == ("test/shard-00000.parquet", 0, 3)
    assert rows[3]["slices"][:2] == ["source=odd", "duration=2-5 s"]
    assert (rows[5]["slices"], rows[5]["latency_s"]) == (None, None)
    assert (rows[5]["error"], rows[5]["hypothesis"], rows[5]["wer"]) == ("undecodable_audio", None, None)
    usable = [row for row in rows if row["error"] is None]
    again = score(
        [row["reference"] for row in usable],
        [row["hypothesis"] for row in usable],
        clusters=[row["recording_id"] for row in usable],
    )
    assert (again.wer, again.wer_interval) == (metrics["wer"], metrics["wer_interval"])

    report = (output / "report.html").read_text()
    assert "16.7% WER" in report
    assert '"heard":["' in report  # the table of utterances


def test_several_actors_share_the_work_and_leave_room_for_reading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(transcribing, "_MAX_CHUNK_UTTERANCES", 7)
    rows = [make_row(number % 3) | {"utterance_id": f"u{number}"} for number in range(60)]
    corpus = write_corpus(tmp_path / "corpus", [rows[:40], rows[40:]])
    chunks = transcribing.plan_chunks(corpus.index("test"))
    assert [chunk.num_rows for chunk in chunks] == [7, 7, 7, 7, 7, 5, 7, 7, 6]
    metrics = evaluate("double", corpus, output=tmp_path / "out", factory=HearsTheLevel)
    assert (metrics["num_utterances"], metrics["wer"]) == (60, 0.0)


def test_a_limit_takes_the_first_utterances_of_the_split(corpus: Corpus, tmp_path: Path):
    seen = []
    metrics = evaluate(
        "double",
        corpus.path,
        output=tmp_path / "out",
        limit=5,
        factory=HearsTheLevel,
        on_progress=lambda done, total: seen.append((done, total)),
    )
    rows = pq.read_table(tmp_path / "out" / "utterances.parquet")["utterance_id"].to_pylist()
    assert rows == corpus.index("test")["utterance_id"].to_pylist()[:5]
    assert metrics["num_utterances"] == 5
    assert seen[-1] == (5, 5)


def test_an_evaluation_that_came_to_its_end_only_scores_again(corpus: Corpus, tmp_path: Path):
    first = evaluate("double", corpus, output=tmp_path, factory=HearsTheLevel)
    again = evaluate("double", corpus, output=tmp_path, factory=os.abort, lenient=True)
    assert again.pop("scores").keys() - first.pop("scores").keys() == {"lenient_numbers", "lenient_spelling"}
    assert again == first


def test_another_evaluation_is_replaced_only_when_asked_to(corpus: Corpus, tmp_path: Path):
    first = evaluate("double", corpus, output=tmp_path, factory=HearsTheLevel)
    with pytest.raises(ResultsError, match=r"language None there, 'he' here\. Choose another folder, or .*--overwrite"):
        evaluate("double", corpus, output=tmp_path, language="he", factory=os.abort)
    assert json.loads((tmp_path / "metrics.json").read_text())["wer"] == first["wer"]
    (tmp_path / "hypotheses" / "request.json").unlink()
    with pytest.raises(ResultsError, match="another evaluation: one without the hypotheses that it came from"):
        evaluate("double", corpus, output=tmp_path, factory=os.abort)
    again = evaluate("double", corpus, output=tmp_path, language="he", factory=HearsTheLevel, overwrite=True)
    assert again["wer"] == first["wer"]


def test_answers_that_were_damaged_are_asked_for_again(corpus: Corpus, tmp_path: Path):
    first = evaluate("double", corpus, output=tmp_path, factory=HearsTheLevel)
    for part in (tmp_path / "hypotheses").glob("*.arrow"):
        part.write_bytes(part.read_bytes()[:100])
    again = evaluate("double", corpus, output=tmp_path, factory=HearsTheLevel)
    assert (again["wer"], again["test_set"]) == (first["wer"], first["test_set"])


def test_a_clip_that_kills_whoever_transcribes_it_is_explained_and_all_others_are_scored(tmp_path: Path):
    corpus = write_corpus(tmp_path / "corpus", [[make_row(number) for number in range(1, 9)]])
    (tmp_path / "calls").mkdir()
    factory = functools.partial(Listener, tmp_path / "calls", deadly=5)
    metrics = evaluate("double", corpus, output=tmp_path / "out", factory=factory)
    assert (metrics["num_utterances"], metrics["wer"]) == (7, 0.0)
    assert metrics["failed_by_reason"] == {"transcriber_crashed": 1}


def test_what_met_a_bad_moment_is_tried_again_by_the_next_command_and_then_never_more(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    corpus = write_corpus(tmp_path / "corpus", [[make_row(number) for number in range(1, 4)], [make_row(5)]])
    calls = tmp_path / "calls"
    calls.mkdir()
    failing, well = (functools.partial(Listener, calls, impossible=level) for level in (5, None))
    run = functools.partial(evaluate, "double", corpus, output=tmp_path / "out")
    assert run(factory=failing)["failed_by_reason"] == {"transcriber_failed": 1}
    assert caplog.messages[-1].endswith("the same command tries them again")
    for call in calls.iterdir():
        call.unlink()
    assert run(factory=well)["num_failed"] == 0
    assert len(list(calls.iterdir())) == 1, "only what failed is transcribed again"

    assert run(factory=failing, overwrite=True)["num_failed"] == 1
    assert run(factory=failing)["num_failed"] == 1
    assert "1 transcriber_failed (RuntimeError: Kernel size" in caplog.text
    assert caplog.messages[-1].endswith("--overwrite begins anew")
    assert run(factory=os.abort)["num_failed"] == 1, "the second failure stays"


def test_what_is_known_by_its_name_alone_may_have_changed_since_and_that_is_said(
    corpus: Corpus, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    run = functools.partial(evaluate, "owner/name", corpus, output=tmp_path)
    run(factory=HearsTheLevel)
    assert "known by its name alone" not in caplog.text
    run(factory=os.abort)
    assert "owner/name is known by its name alone" in caplog.text


def test_a_part_of_the_split_does_not_take_the_place_of_all_of_it(corpus: Corpus, tmp_path: Path):
    evaluate("double", corpus, output=tmp_path, factory=HearsTheLevel)
    with pytest.raises(ResultsError, match="limit None there, 5 here"):
        evaluate("double", corpus, output=tmp_path, limit=5, factory=HearsTheLevel)
    assert json.loads((tmp_path / "metrics.json").read_text())["num_utterances"] == 11


def test_answers_by_another_version_of_transformers_are_not_taken_for_these(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    metrics = evaluate("double", corpus, output=tmp_path, factory=HearsTheLevel)
    assert metrics["versions"].keys() == {"caspi", "transformers"}
    newer = {**metrics["versions"], "transformers": "99"}
    monkeypatch.setattr(sys.modules[evaluate.__module__], "versions", lambda: newer)
    with pytest.raises(ResultsError, match=r"versions .* there, .*'99'.* here"):
        evaluate("double", corpus, output=tmp_path, factory=HearsTheLevel)


def test_a_clip_that_a_model_cannot_take_is_explained_and_all_others_are_scored(tmp_path: Path):
    corpus = write_corpus(tmp_path / "corpus", [[make_row(number) for number in range(1, 9)], [make_row(5)]])
    (tmp_path / "calls").mkdir()
    factory = functools.partial(Listener, tmp_path / "calls", impossible=5)
    metrics = evaluate("double", corpus, output=tmp_path / "out", factory=factory)
    assert (metrics["num_utterances"], metrics["wer"]) == (7, 0.0)
    assert metrics["failed_by_reason"] == {"transcriber_failed": 2}
    row = pq.read_table(tmp_path / "out" / "utterances.parquet").to_pylist()[4]
    assert row["error_detail"] == "RuntimeError: Kernel size can't be greater than actual input size"


def test_a_clip_without_speech_that_cannot_be_transcribed_is_counted(tmp_path: Path):
    corpus = write_corpus(tmp_path / "corpus", [[make_row(number) for number in range(1, 4)]])
    (tmp_path / "calls").mkdir()
    factory = functools.partial(HearsNothingIn, 3.0)
    metrics = evaluate("double", corpus, output=tmp_path / "out", factory=factory)
    assert (metrics["hallucination"]["num_failed"], metrics["hallucination"]["num_silent"]) == (5, 15)
    assert {each["clip"].split("/")[-1] for each in metrics["hallucination"]["clips"]} == {"1s", "8s", "20s"}
    assert "5 of the clips made for this could not be transcribed" in (tmp_path / "out" / "report.html").read_text()


def test_a_model_that_fails_on_everything_is_an_error_and_blames_no_clip(corpus: Corpus, tmp_path: Path):
    with pytest.raises(ModelError, match="fails on every clip, even on a second of noise: ValueError: no kernel image"):
        evaluate("double", corpus, output=tmp_path / "out", factory=FailsAlways)
    assert not list((tmp_path / "out" / "hypotheses").glob("*.arrow"))


def test_a_model_that_is_not_there_is_said_in_a_line(corpus: Corpus, tmp_path: Path):
    with pytest.raises(ModelError, match=r"^\S+/nowhere: no such model; expected a folder"):
        evaluate(tmp_path / "nowhere", corpus, output=tmp_path / "out")


def test_a_model_that_was_moved_is_the_same_and_a_mistyped_one_leaves_no_mark(corpus: Corpus, tmp_path: Path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "weights").write_bytes(b"1")
    with pytest.raises(RequestError, match="no Hebrew"):
        evaluate(tmp_path, corpus, output=tmp_path / "out", factory=Refuses)
    first = evaluate(tmp_path / "model", corpus, output=tmp_path / "out", factory=HearsTheLevel)
    (tmp_path / "model").rename(tmp_path / "moved")
    again = evaluate(tmp_path / "moved", corpus, output=tmp_path / "out", factory=os.abort)
    assert again["wer"] == first["wer"]
    (tmp_path / "moved" / "weights").write_bytes(b"2")
    with pytest.raises(ResultsError, match=r"model_fingerprint .* there, .* here"):
        evaluate(tmp_path / "moved", corpus, output=tmp_path / "out", factory=os.abort)


def test_what_a_transcriber_refuses_is_said_in_a_line(corpus: Corpus, tmp_path: Path):
    with pytest.raises(RequestError, match=r"^the endpoint knows no Hebrew$"):
        evaluate("double", corpus, output=tmp_path / "out", factory=Refuses)


def test_a_split_of_broken_clips_is_an_error_and_not_a_perfect_score(tmp_path: Path, corpus: Corpus):
    table = pq.read_table(corpus.path / "utterances.parquet")
    pq.write_table(table.slice(5, 1), corpus.path / "utterances.parquet")
    with pytest.raises(
        CorpusError, match=r"none of the 1 utterances of its test split could be used: 1 undecod.*_audio \("
    ):
        evaluate("double", corpus.path, output=tmp_path / "out", factory=HearsTheLevel)
    assert not (tmp_path / "out" / "metrics.json").exists()


def test_a_wrong_request_is_known_before_anything_starts(corpus: Corpus, tmp_path: Path):
    with pytest.raises(CorpusError, match="validation split is empty"):
        evaluate("double", corpus, output=tmp_path / "out", split="validation", factory=os.abort)
    with pytest.raises(RequestError, match="'xx' is unknown"):
        evaluate("double", corpus, output=tmp_path / "out", language="xx", factory=os.abort)
    assert not (tmp_path / "out").exists()
