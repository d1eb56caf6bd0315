"""Killed anywhere, the same command goes on and ends in the same bytes. Real processes, really killed."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from caspi.memory import descendants
from tests.corpus.conftest import hashes, tone, write_jsonl

pytestmark = pytest.mark.timeout(900)  # whole commands, several in a test, on machines that may be busy

_NUM_ROWS = 400
_DEADLINE_S = 240


@pytest.fixture(scope="module")
def recipe_file(tmp_path_factory):
    """A source of a few hundred recordings, some of them bad, in many chunks and shards."""
    folder = tmp_path_factory.mktemp("source")
    lines = []
    for number in range(_NUM_ROWS):
        path = folder / f"{number}.wav"
        content = tone(1 + number % 9, frequency=100 + number, sample_rate=44100)
        path.write_bytes(content[: len(content) // 2] if number % 40 == 7 else content)
        lines.append({"id": f"r{number}", "audio": path.name, "text": f"מספר {number}"})
    write_jsonl(folder / "speech.jsonl", lines)
    recipe = {
        "data": {"sources": [{"kind": "jsonl", "path": "speech.jsonl"}], "shards": {"max_duration_s": 100}},
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return folder / "recipe.yaml"


def start(recipe_file: Path, output: Path) -> subprocess.Popen[bytes]:
    """`caspi prepare` as a user starts it, in a process group of its own."""
    environment = {
        **os.environ,
        "CASPI_NUM_CPUS": "2",
        "CASPI_OBJECT_STORE_MB": "100",
        "CASPI_HOME": str(output.parent),
    }
    environment.pop("MLFLOW_TRACKING_URI", None)
    words = [sys.executable, "-m", "caspi", "prepare", str(recipe_file), "--output", str(output)]
    return subprocess.Popen(
        words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
    )


def finish(process: subprocess.Popen[bytes]) -> None:
    said, _ = process.communicate(timeout=_DEADLINE_S)
    assert process.returncode == 0, said.decode()


def kill(process: subprocess.Popen[bytes], *, victim: str) -> bool:
    """Kill the driver, or one that works for it, by signal 9. False if there was none to kill."""
    if victim == "driver":
        process.kill()
    else:
        found = [each for each in descendants(process.pid) if victim in _command_line(each)]
        if not found:
            return False
        os.kill(found[0], signal.SIGKILL)
    return True


def _command_line(process: int) -> str:
    try:
        return Path(f"/proc/{process}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def run_until_done(recipe_file: Path, output: Path) -> None:
    """The same command, until it says that it is done: a killed raylet ends the command with an error."""
    for _ in range(3):
        process = start(recipe_file, output)
        said, _ = process.communicate(timeout=_DEADLINE_S)
        if process.returncode == 0:
            return
    raise AssertionError(said.decode())


@pytest.fixture(scope="module")
def undisturbed(recipe_file, tmp_path_factory):
    """The hashes of a run that nobody disturbed, and the seconds it took."""
    output = tmp_path_factory.mktemp("undisturbed") / "corpus"
    began = time.monotonic()
    finish(start(recipe_file, output))
    return hashes(output), time.monotonic() - began


def wait_for(output: Path, pattern: str, process: subprocess.Popen[bytes]) -> None:
    """Until the work has come so far that a file of this kind is there."""
    ends = time.monotonic() + _DEADLINE_S
    while not any(output.with_name(f"{output.name}.partial").glob(pattern)):
        assert process.poll() is None, process.communicate()[0].decode()
        assert time.monotonic() < ends
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("victim", "moment"),
    [
        ("driver", "parts/*/*.ledger.arrow"),
        pytest.param("driver", "corpus/train/*.parquet", marks=pytest.mark.slow),
        pytest.param("raylet/raylet", "parts/*/*.ledger.arrow", marks=pytest.mark.slow),
    ],
)
def test_a_killed_process_costs_at_most_its_own_chunk(recipe_file, undisturbed, tmp_path, victim, moment):
    output = tmp_path / "corpus"
    process = start(recipe_file, output)
    wait_for(output, moment, process)
    done = {path: path.stat().st_mtime_ns for path in tmp_path.glob("corpus.partial/parts/*/*.ledger.arrow")}
    assert kill(process, victim=victim)
    process.communicate(timeout=_DEADLINE_S)
    assert not output.exists()

    kept = {path: path.stat().st_mtime_ns for path in done}
    assert kept == done
    run_until_done(recipe_file, output)
    assert hashes(output) == undisturbed[0]
    assert not (tmp_path / "corpus.partial").exists()


def test_a_killed_worker_is_replaced_within_the_run(recipe_file, undisturbed, tmp_path):
    output = tmp_path / "corpus"
    process = start(recipe_file, output)
    wait_for(output, "parts/*/*.begun", process)
    assert kill(process, victim="ray::run_items")
    finish(process)
    assert hashes(output) == undisturbed[0]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_twenty_kills_at_random_moments_change_no_byte(recipe_file, undisturbed, tmp_path):
    expected, seconds = undisturbed
    chance = random.Random(20)
    for number in range(20):
        output = tmp_path / str(number)
        process = start(recipe_file, output)
        time.sleep(chance.uniform(0, seconds))
        kill(process, victim=chance.choice(["driver", "ray::run_items", "raylet/raylet", "gcs_server"]))
        try:
            process.communicate(timeout=_DEADLINE_S)
        except subprocess.TimeoutExpired:  # a driver that waits for a part of Ray that is gone
            process.kill()
            process.communicate()
        if not output.exists():
            run_until_done(recipe_file, output)
        assert hashes(output) == expected, f"kill number {number}"
        shutil.rmtree(output)


def test_two_preparations_of_one_corpus_do_not_meet(recipe_file, tmp_path):
    output = tmp_path / "corpus"
    first = start(recipe_file, output)
    wait_for(output, "parts/*/*.begun", first)
    second = start(recipe_file, output)
    said, _ = second.communicate(timeout=_DEADLINE_S)
    assert second.returncode == 2
    assert "another preparation is at work" in said.decode()
    finish(first)


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 12 MiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", str(folder)]
    if os.geteuid() or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no right to mount a small file system here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_loses_nothing(recipe_file, undisturbed, small_disk):
    output = small_disk / "corpus"
    process = start(recipe_file, output)
    said, _ = process.communicate(timeout=_DEADLINE_S)
    assert process.returncode == 1
    assert "No space left on device" in said.decode()
    assert "give the same command again" in said.decode()
    assert "Traceback" not in said.decode()
    done = list(small_disk.glob("corpus.partial/parts/*/*.ledger.arrow"))
    assert done

    subprocess.run(["mount", "-o", "remount,size=500m", str(small_disk)], check=True)
    finish(start(recipe_file, output))
    assert hashes(output) == undisturbed[0]
