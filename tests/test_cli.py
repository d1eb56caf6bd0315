"""The command line as a user meets it: one clear message and the right exit code, never a traceback."""

import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from caspi.cli import build_parser
from caspi.submit import _entrypoint

ROOT = Path(__file__).parents[1]
DEMO = ROOT / "jobs" / "recipes" / "demo.yaml"


def caspi(*arguments: object, cwd: Path | None = None, home: Path | None = None) -> subprocess.CompletedProcess[str]:
    import os

    env = {**os.environ, "CASPI_HOME": str(home or "/nonexistent-home")}
    return subprocess.run(
        [sys.executable, "-m", "caspi", *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=cwd or ROOT,
        env=env,
        timeout=240,
    )


def refused(done: subprocess.CompletedProcess[str], *words: str, code: int = 2) -> None:
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.startswith("caspi: ")
    for word in words:
        assert word in done.stderr


def test_help_names_every_command():
    said = caspi("--help").stdout
    for command in (
        "demo",
        "synthesize",
        "prepare",
        "train",
        "plan",
        "evaluate",
        "transcribe",
        "promote",
        "serve",
        "submit",
    ):
        assert f"\n    {command}" in said


def test_show_prints_the_resolved_recipe():
    done = caspi("recipe", "show", DEMO, "--set", "training.epochs=7")
    assert done.returncode == 0
    assert "\n  epochs: 7\n" in done.stdout
    assert "max_grad_norm" in done.stdout


def test_a_mistyped_key_is_named_with_its_neighbour(tmp_path: Path):
    done = caspi("prepare", DEMO, "--output", tmp_path / "corpus", "--set", "data.filters.max_duraton_s=3")
    refused(done, "data.filters.max_duraton_s: unknown; did you mean max_duration_s?")
    assert not (tmp_path / "corpus").exists()


def test_a_missing_recipe_is_one_line(tmp_path: Path):
    done = caspi("train", tmp_path / "none.yaml", "--corpus", tmp_path, "--output", tmp_path / "run")
    refused(done, "no recipe to read here")
    assert done.stderr.count("\n") == 1


def test_a_source_that_matches_nothing_is_an_error_not_an_empty_corpus(tmp_path: Path):
    done = caspi("prepare", DEMO, "--output", tmp_path / "corpus", "--set", "data.sources.0.path=/nowhere/*.parquet")
    refused(done, "/nowhere/*.parquet")
    assert not (tmp_path / "corpus").exists()


def test_a_corpus_of_only_bad_files_says_why_each_was_refused(tmp_path: Path):
    (tmp_path / "a.txt").write_text("שלום", encoding="utf-8")
    (tmp_path / "a.wav").write_bytes(b"this is not audio at all")
    (tmp_path / "mine.yaml").write_text("data:\n  sources: [{kind: folder, path: .}]\n", encoding="utf-8")
    done = caspi("prepare", tmp_path / "mine.yaml", "--output", tmp_path / "corpus")
    refused(done, "undecodable_audio")
    assert not (tmp_path / "corpus").exists()


def test_training_without_a_corpus_starts_nothing(tmp_path: Path):
    done = caspi("train", DEMO, "--corpus", tmp_path / "nowhere", "--output", tmp_path / "run", home=tmp_path / "home")
    refused(done, "no such folder", "caspi prepare")
    assert not (tmp_path / "run").exists()
    assert not (tmp_path / "home").exists()


def test_planning_for_a_gpu_that_is_not_known_names_those_that_are(tmp_path: Path):
    refused(caspi("plan", DEMO, "--corpus", tmp_path, "--gpu", "v100"), "--gpu v100", "a100-40", "h200")


def test_planning_without_a_corpus_starts_nothing(tmp_path: Path):
    for gpu in ("h100", "cpu"):
        refused(
            caspi("plan", DEMO, "--corpus", tmp_path / "none", "--gpu", gpu, home=tmp_path / "home"), "no such folder"
        )
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize(
    "words",
    [
        ["train", str(DEMO), "--output", "run"],
        ["plan", str(DEMO), "--gpu", "cpu"],
        ["evaluate", "--model", "model", "--output", "out"],
        ["compare", "one", "other", "--output", "out"],
        ["export", "--output", "out"],
    ],
    ids=lambda words: words[0],
)
def test_a_corpus_may_be_given_by_its_url(words: list[str]):
    assert build_parser().parse_args([*words, "--corpus", "s3://speech/corpus"]).corpus == "s3://speech/corpus"


def test_a_job_is_given_the_url_of_its_corpus():
    line = _entrypoint(ROOT, "train_model", ["demo.yaml"], [], ["--corpus", "s3://speech/my corpus"])
    assert shlex.split(line)[-2:] == ["--corpus", "s3://speech/my corpus"]


def test_nothing_is_written_to_a_url(tmp_path: Path):
    done = caspi("prepare", DEMO, "--output", "s3://speech/corpus", cwd=tmp_path)
    assert done.returncode == 2
    assert "s3://speech/corpus: expected a folder" in done.stderr
    assert not list(tmp_path.iterdir())


def test_a_bucket_that_is_not_there_is_one_line(bucket: str, tmp_path: Path):
    arguments = ("train", DEMO, "--corpus", "s3://nobodys/corpus", "--output", tmp_path / "run")
    refused(caspi(*arguments, home=tmp_path / "home"), "s3://nobodys/corpus: no manifest.json there")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("words", "steps"), [([], 0), (["--profile"], 3), (["--profile", "5"], 5)])
def test_a_trace_has_three_steps_unless_told(words: list[str], steps: int):
    train = ["train", str(DEMO), "--corpus", "corpus", "--output", "run", *words]
    assert build_parser().parse_args(train).profile == steps


def test_evaluating_a_folder_that_is_no_corpus_is_refused(tmp_path: Path):
    done = caspi("evaluate", "--model", tmp_path, "--corpus", tmp_path, "--output", tmp_path / "out")
    refused(done, "not a prepared corpus")


def test_transcribing_without_a_model_is_refused(tmp_path: Path):
    refused(caspi("transcribe", "--model", tmp_path / "model", "speech.wav"), "no such model")


def test_serving_a_model_that_is_not_there_is_refused_before_anything_starts(tmp_path: Path):
    refused(caspi("serve", "--model", tmp_path / "model", home=tmp_path / "home"), "model")
    assert not (tmp_path / "home").exists()


def test_an_address_that_does_not_answer_is_one_message():
    refused(caspi("submit", "prepare_corpus", DEMO, "--address", "http://127.0.0.1:9"), "127.0.0.1:9")


@pytest.mark.parametrize("arguments", [["prepare"], ["nonsense"], ["train", str(DEMO)]])
def test_wrong_arguments_exit_with_2(arguments: list[str]):
    assert caspi(*arguments).returncode == 2


def test_the_demo_does_not_overwrite_what_is_not_a_demo(tmp_path: Path):
    (tmp_path / "precious.txt").write_text("keep me", encoding="utf-8")
    refused(caspi("demo", "--output", tmp_path, home=tmp_path / "home"), "not an earlier demo")
    assert (tmp_path / "precious.txt").exists()
