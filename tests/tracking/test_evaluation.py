"""What MLflow knows of an evaluation."""

import logging
import sys
from pathlib import Path

import pytest

from caspi.evaluation import sound
from caspi.evaluation.reaching import reachable
from caspi.evaluation.report import write_report
from caspi.tracking import log_evaluation, log_model_files, promote, record_evaluation
from caspi.tracking.client import client
from caspi.tracking.model_files import read_model_files
from tests.browser import browser, needs_chromium
from tests.evaluation.conftest import make_row, write_corpus
from tests.evaluation.hearing import hear
from tests.tracking.conftest import write_model


@pytest.fixture
def evaluated(tmp_path: Path, model_folder: Path) -> Path:
    """The evaluation of the fixture's model, half of whose words are wrong."""
    results = hear([("א ב", "א ג"), ("א ב", "א ד")], name=str(model_folder), source=["crowd", "שם, אחר"])
    results.metrics["model_fingerprint"] = read_model_files(model_folder).digest
    folder = tmp_path / "evaluation"
    write_report(folder, results)
    results.write(folder)
    return folder


def test_it_lies_with_the_run_that_made_the_model(
    mlflow_uri: str, run_id: str, model_folder: Path, evaluated: Path, tmp_path: Path
):
    log_model_files(mlflow_uri, run_id, model_folder)
    assert log_evaluation(evaluated, uri=mlflow_uri) == run_id
    with client(mlflow_uri) as mlflow:
        run = mlflow.get_run(run_id)
        (place,) = mlflow.list_artifacts(run_id, "evaluation")
        stored = Path(mlflow.download_artifacts(run_id, place.path, str(tmp_path)))
    assert run.info.status == "RUNNING"  # how the run itself ended is not ours to say
    expected = {"test/wer": 0.5, "test/wer_ivrit": 0.5, "test/num_utterances": 2, "test/num_empty": 0}
    expected |= {"test/wer_by_source/crowd": 0.5, "test/wer_by_source/שם_ אחר": 0.5}
    assert expected.items() <= run.data.metrics.items()
    assert place.path.startswith("evaluation/test-")
    for name in ("report.html", "metrics.json", "utterances.parquet"):
        assert (stored / name).read_bytes() == (evaluated / name).read_bytes()


def test_a_model_that_no_run_made_gets_a_run(mlflow_uri: str, evaluated: Path):
    results = hear([("א ב", "א ג")], name="Qwen/Qwen3-ASR-1.7B-hf")
    results.metrics["model_fingerprint"] = "Qwen/Qwen3-ASR-1.7B-hf"
    results.metrics.update(rtfx=None, latency_s=None)  # as those of a file of hypotheses
    results.write(evaluated)
    with client(mlflow_uri) as mlflow:
        run = mlflow.get_run(log_evaluation(evaluated, uri=mlflow_uri))
    assert (run.info.status, run.info.run_name) == ("FINISHED", "evaluate Qwen/Qwen3-ASR-1.7B-hf")
    assert run.data.tags["caspi.model"] == "Qwen/Qwen3-ASR-1.7B-hf"
    assert run.data.metrics["test/wer"] == 0.5
    assert "test/rtfx" not in run.data.metrics


@needs_chromium
def test_sound_that_lies_beside_the_report_plays_in_mlflow(
    mlflow_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    corpus = write_corpus(tmp_path / "corpus", [[make_row(number) for number in range(1, 4)]])
    index = corpus.index("test").to_pylist()
    columns = {name: [row[name] for row in index] for name in ("utterance_id", "shard", "row", "duration_s")}
    results = hear([("א ב", "א ג"), ("א ב", "א ב"), ("א ב", "א ב")], **columns)
    results.metrics.update(corpus=str(corpus.path), corpus_fingerprint=corpus.fingerprint, model_fingerprint="-")
    monkeypatch.setattr(sound, "MAX_EMBEDDED_BYTES", 0)
    folder = tmp_path / "evaluation"
    write_report(folder, results)
    results.write(folder)
    run_id = log_evaluation(folder, uri=mlflow_uri)
    with client(mlflow_uri) as mlflow:
        experiment = mlflow.get_run(run_id).info.experiment_id
        (place,) = mlflow.list_artifacts(run_id, "evaluation")
    with browser(tmp_path / "profile") as tab:
        tab.open(f"{mlflow_uri}/#/experiments/{experiment}/runs/{run_id}/artifacts/{place.path}/report.html")
        with tab.frame() as report:
            heard = report.run(_PLAY_FIRST)
    assert heard == {"utterance": index[0]["utterance_id"], "seconds": 2}


# The page itself asks for it after a click; how long it is only the sound knows.
_PLAY_FIRST = """new Promise(async resolve => {
  while (!document.querySelector("td.play button")) await new Promise(wait => setTimeout(wait, 50));
  const audio = document.querySelector("audio");
  const utterance = document.querySelector("td.play button").getAttribute("aria-label").replace("Play ", "");
  audio.addEventListener("loadedmetadata", () => resolve({ utterance, seconds: audio.duration }));
  audio.addEventListener("error", () => resolve(audio.error.message));
  document.querySelector("td.play button").click();
})"""


def test_another_test_set_lies_beside_it(mlflow_uri: str, run_id: str, model_folder: Path, evaluated: Path):
    log_model_files(mlflow_uri, run_id, model_folder)
    log_evaluation(evaluated, uri=mlflow_uri)
    other = hear([("שלום", "שלום")])
    other.metrics["model_fingerprint"] = read_model_files(model_folder).digest
    other.write(evaluated)
    log_evaluation(evaluated, uri=mlflow_uri)
    with client(mlflow_uri) as mlflow:
        assert len(mlflow.list_artifacts(run_id, "evaluation")) == 2


def test_an_alias_is_looked_up_once_for_all_who_load_the_model(
    mlflow_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_uri)
    promote(write_model(tmp_path / "old"), "he-pinned", uri=mlflow_uri, alias="trial", ask_gate=False)
    with reachable("models:/he-pinned@trial", needed=True) as found:
        promote(write_model(tmp_path / "new", weight=2.0), "he-pinned", uri=mlflow_uri, alias="trial", ask_gate=False)
        assert found.model == "models:/he-pinned/1"
        assert read_model_files(Path(found.files)).digest == read_model_files(tmp_path / "old").digest
        assert found.environment["MLFLOW_TRACKING_URI"] == mlflow_uri


def test_no_server_is_started_where_there_is_nothing_to_add_to(evaluated: Path, home: Path):
    assert record_evaluation(evaluated) is None
    assert not home.exists()


def test_a_server_that_does_not_answer_is_only_a_warning(
    evaluated: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setattr(sys.modules["caspi.tracking.server"], "ANSWER_TIMEOUT_S", 0.0)
    with caplog.at_level(logging.WARNING, "caspi"):
        assert record_evaluation(evaluated) is None
    assert "the evaluation is complete" in caplog.text
