"""Killed anywhere, the same evaluation goes on and ends in the same figures. Real processes, really killed."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from caspi import audio
from caspi.corpus.format import Corpus
from caspi.evaluation.results import Results
from caspi.evaluation.transcribing import plan_chunks
from caspi.memory import descendants
from tests.evaluation.conftest import make_row, write_corpus

pytestmark = pytest.mark.timeout(900)  # whole commands, several in a test, on machines that may be busy

_DEADLINE_S = 240
_TIMED = {"transcribe_s", "rtfx", "latency_s", "transcribed"}


@pytest.fixture(scope="module", params=[600, pytest.param(10_000, marks=pytest.mark.slow)])
def corpus(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """Clips of a hundred kinds, some of them damaged, in shards of a thousand."""
    kinds = [make_row(number) for number in range(100)]
    for number, kind in enumerate(kinds):
        kind["audio"] = audio.encode_flac(audio.decode(kind["audio"], source="").samples[: 4000 + 100 * number])
    rows = [
        kinds[number % 100] | {"utterance_id": f"u{number}", "recording_id": f"r{number // 10}", "duration_s": 0.5}
        for number in range(request.param)
    ]
    for number in range(0, len(rows), len(rows) // 64)[:64]:
        rows[number]["audio"] = rows[number]["audio"][:20]
    folder = tmp_path_factory.mktemp("large") / "corpus"
    return write_corpus(folder, [rows[first : first + 1000] for first in range(0, len(rows), 1000)])


def start(corpus: Corpus, output: Path, *, calls: str = "calls") -> subprocess.Popen[bytes]:
    """A command whose transcriber leaves a file for each of its calls, in `calls` beside the output."""
    folder = output.with_name(calls)
    folder.mkdir()
    environment = {**os.environ, "CASPI_NUM_CPUS": "2", "CASPI_OBJECT_STORE_MB": "100"}
    words = [sys.executable, "-m", "tests.evaluation.listener", "--seconds", "0.2"]
    words += ["--corpus", str(corpus.path), "--output", str(output), "--calls", str(folder)]
    return subprocess.Popen(
        words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
    )


def finish(process: subprocess.Popen[bytes]) -> None:
    said, _ = process.communicate(timeout=_DEADLINE_S)
    assert process.returncode == 0, said.decode()


def parts(output: Path) -> dict[Path, int]:
    """The answers that are kept, and when they were written."""
    return {path: path.stat().st_mtime_ns for path in output.glob("hypotheses/*.arrow")}


def wait_for_parts(output: Path, number: int, process: subprocess.Popen[bytes]) -> None:
    ends = time.monotonic() + _DEADLINE_S
    while len(parts(output)) < number:
        assert process.poll() is None, process.communicate()[0].decode()
        assert time.monotonic() < ends
        time.sleep(0.02)


def figures(output: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """All but what the clock says."""
    results = Results.read(output)
    metrics = {name: value for name, value in results.metrics.items() if name not in _TIMED}
    return metrics, results.utterances.drop_columns(["latency_s"]).to_pylist()


@pytest.fixture(scope="module")
def undisturbed(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("undisturbed") / "evaluation"
    finish(start(corpus, output))
    return output


def test_every_damaged_clip_is_explained_and_every_other_one_is_scored(corpus: Corpus, undisturbed: Path):
    metrics, rows = figures(undisturbed)
    assert metrics["num_failed"] == 64 == sum(metrics["failed_by_reason"].values())
    assert metrics["num_utterances"] == len(corpus.index("test")) - 64
    assert metrics["wer"] == 0.0
    assert sum(row["error"] is not None for row in rows) == 64


def test_a_killed_command_goes_on_where_it_stopped(corpus: Corpus, undisturbed: Path, tmp_path: Path):
    output = tmp_path / "evaluation"
    process = start(corpus, output)
    wait_for_parts(output, 4, process)
    process.kill()
    process.communicate(timeout=_DEADLINE_S)
    kept = parts(output)
    assert not (output / "metrics.json").exists()

    finish(start(corpus, output, calls="calls of the second"))
    assert figures(output) == figures(undisturbed)
    assert kept.items() <= parts(output).items()
    num_chunks = len(plan_chunks(corpus.index("test"))) + 1
    num_calls = len(list((tmp_path / "calls of the second").iterdir()))
    assert num_calls == num_chunks - len(kept), "what is kept is not transcribed again"


def test_a_killed_actor_is_replaced_within_the_run(corpus: Corpus, undisturbed: Path, tmp_path: Path):
    output = tmp_path / "evaluation"
    process = start(corpus, output)
    wait_for_parts(output, 2, process)
    actors = [each for each in descendants(process.pid) if "TranscribeUtterances" in _command_line(each)]
    os.kill(actors[0], signal.SIGKILL)
    finish(process)
    assert figures(output) == figures(undisturbed)


def _command_line(process: int) -> str:
    try:
        return Path(f"/proc/{process}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""
