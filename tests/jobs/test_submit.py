"""Jobs on a real cluster, through the same call as `caspi submit`."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from ray.job_submission import JobSubmissionClient

from caspi import submit
from caspi.corpus.format import Corpus
from caspi.errors import RequestError

ROOT = Path(__file__).parents[2]
RECIPE = ROOT / "tests" / "jobs" / "recipes" / "tiny.yaml"


def run(client: JobSubmissionClient, module: str) -> tuple[submit.Submission, str]:
    """Run any module as a job, with the environment that `caspi submit` gives."""
    lines: list[str] = []
    environment = submit.runtime_env(ROOT, f"{module.replace('.', '/')}.py")
    submission_id = client.submit_job(entrypoint=f"python -m {module}", runtime_env=environment)
    submit._follow(client, submission_id, lambda: None, lines.append)
    return submit._seen(client, submission_id), "".join(lines)


def write_speech(folder: Path, num_recordings: int = 12) -> Path:
    """Tones with Hebrew texts, as a JSONL file with WAV files beside it."""
    sentences = ["שלום עולם", "בוקר טוב", "מה שלומך היום", "תודה רבה לך"]
    rows = []
    for number in range(num_recordings):
        seconds = np.arange(16000 + 800 * number) / 16000
        soundfile.write(folder / f"{number}.wav", 0.3 * np.sin(2 * np.pi * (200 + 20 * number) * seconds), 16000)
        rows.append({"id": f"r{number}", "audio": f"{number}.wav", "text": sentences[number % len(sentences)]})
    path = folder / "speech.jsonl"
    path.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), encoding="utf-8")
    return path


def test_driver_and_task_import_the_uploaded_package_and_the_standard_platform(cluster: str):
    submission, output = run(JobSubmissionClient(cluster), "tests.jobs.guard_job")
    assert submission.exit_code == 0, output
    assert "driver is fine" in output
    assert "task is fine" in output


def test_prepare_corpus_runs_as_a_job(cluster: str, tmp_path: Path):
    overrides = [f"data.sources.0.path={write_speech(tmp_path)}"]
    succeed("prepare_corpus", RECIPE, cluster, overrides, "--output", tmp_path / "corpus")
    assert Corpus.open(tmp_path / "corpus").manifest["num_utterances"] == 12


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_whole_line_runs_as_jobs(cluster: str, tmp_path: Path):
    corpus, output, evaluation = tmp_path / "corpus", tmp_path / "run", tmp_path / "evaluation"
    overrides = [f"data.sources.0.path={write_speech(tmp_path)}"]
    succeed("prepare_corpus", RECIPE, cluster, overrides, "--output", corpus)
    succeed("train_model", RECIPE, cluster, overrides, "--corpus", corpus, "--output", output)
    arguments = ("--model", output / "model", "--corpus", corpus, "--output", evaluation)
    succeed("evaluate_model", None, cluster, [], *arguments)
    metrics = json.loads((evaluation / "metrics.json").read_text())
    assert metrics["num_utterances"] == Corpus.open(corpus).index("test").num_rows
    assert metrics["corpus_fingerprint"] == Corpus.open(corpus).fingerprint


def succeed(job: str, recipe: Path | None, cluster: str, overrides: list[str], *arguments: str | Path) -> None:
    """Submit a job and see it through. What it printed is the message of a failure."""
    lines: list[str] = []
    words = [str(argument) for argument in arguments]
    submission = submit.submit(job, recipe, address=cluster, overrides=overrides, arguments=words, write=lines.append)
    assert submission.status == "SUCCEEDED", "".join(lines)


def test_the_exit_code_is_the_jobs_own(cluster: str, tmp_path: Path):
    lines: list[str] = []
    submission = submit.submit(
        "prepare_corpus",
        RECIPE,
        address=cluster,
        overrides=[f"data.sources.0.path={tmp_path}/nothing.jsonl"],
        arguments=["--output", str(tmp_path / "corpus")],
        write=lines.append,
    )
    assert (submission.status, submission.exit_code) == ("FAILED", 2)
    assert "nothing.jsonl" in "".join(lines)
    assert "Traceback" not in "".join(lines)


def test_a_submission_id_is_submitted_once_and_where_it_was_asked_for(cluster: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:1")  # Ray's client prefers it to the address it is given
    first = submit.submit("promote_model", address=cluster, arguments=["--help"], submission_id="caspi-once")
    second = submit.submit("promote_model", address=cluster, arguments=["--help"], submission_id="caspi-once")
    assert (first.id, first.status) == ("caspi-once", "SUCCEEDED")
    assert second == first


@pytest.mark.slow
def test_a_cluster_with_a_token_wants_it(start_cluster: Callable[..., str], monkeypatch: pytest.MonkeyPatch):
    address = start_cluster(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN="0123456789abcdef0123456789abcdef")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", "/nowhere")
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    with pytest.raises(RequestError, match="asks for a token"):
        submit.submit("promote_model", address=address, arguments=["--help"])
    monkeypatch.setenv("RAY_AUTH_TOKEN", "f" * 32)
    with pytest.raises(RequestError, match="another token"):
        submit.submit("promote_model", address=address, arguments=["--help"])
    monkeypatch.setenv("RAY_AUTH_TOKEN", "0123456789abcdef0123456789abcdef")
    assert submit.submit("promote_model", address=address, arguments=["--help"]).exit_code == 0


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("http://127.0.0.1:1", "no answer"),
        ("ray://127.0.0.1:10001", "http://HEAD:8265"),
        ("127.0.0.1:1", "http://127.0.0.1:1: no answer"),
    ],
)
def test_an_address_that_is_no_dashboard_is_refused(address: str, expected: str):
    with pytest.raises(RequestError, match=expected):
        submit.submit("promote_model", address=address)


def test_a_mistyped_job_names_those_that_exist():
    with pytest.raises(RequestError, match="train_model"):
        submit.submit("train", address="http://127.0.0.1:1")


def test_a_mistyped_recipe_key_is_found_before_anything_is_uploaded():
    with pytest.raises(RequestError, match="did you mean epochs"):
        submit.submit("train_model", RECIPE, address="http://127.0.0.1:1", overrides=["training.epoch=1"])


def test_a_recipe_outside_the_repository_is_refused(tmp_path: Path):
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(RECIPE.read_text())
    with pytest.raises(RequestError, match="would not be uploaded"):
        submit.submit("train_model", recipe, address="http://127.0.0.1:1")


def test_a_tracking_address_that_workers_cannot_reach_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///mlflow.db")
    with pytest.raises(RequestError, match="cannot reach it"):
        submit.runtime_env(ROOT)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow:5000")
    assert submit.runtime_env(ROOT)["env_vars"]["MLFLOW_TRACKING_URI"] == "http://mlflow:5000"
