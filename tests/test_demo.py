"""`caspi demo` as a whole, on little speech: what it leaves, what it survives, and that nothing stays behind."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from caspi.memory import descendants
from caspi.training import progress

KEYS = {
    "wer_untrained", "wer", "cer", "hours_prepared", "rejected_by_reason", "loss_first", "loss_last", "prepare_rtfx",
    "train_rtfx", "serve_rtfx", "reference", "answer", "seconds_by_stage", "peak_memory_bytes",
}  # fmt: skip


@pytest.mark.timeout(600)
def test_the_demo_survives_a_killed_training_worker_and_leaves_no_process(tmp_path: Path):
    output = tmp_path / "demo"
    words = ["demo", "--output", output, "--utterances", "80"]
    words += ["--set", "training.epochs=6", "--set", "training.checkpoints.every_steps=4"]
    demo = subprocess.Popen(
        [sys.executable, "-m", "caspi", *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "CASPI_HOME": str(tmp_path / "home")},
        cwd=tmp_path,
    )
    kill_a_training_worker(demo, output / "run" / "progress.jsonl")
    started = descendants(demo.pid)
    said, complaints = demo.communicate(timeout=500)

    assert demo.returncode == 0, complaints
    assert complaints == ""
    assert "WARNING" not in said
    figures = json.loads((output / "demo.json").read_text(encoding="utf-8"))
    assert figures.keys() >= KEYS
    assert figures["loss_last"] < figures["loss_first"]
    assert figures["peak_memory_bytes"] < 8 * 2**30
    steps = [line["step"] for line in progress.read(output / "run" / "progress.jsonl") if line["event"] == "step"]
    assert steps == sorted(set(steps)), "no step counted twice"
    for place in ("corpus/manifest.json", "run/model/model.safetensors", "evaluation/report.html"):
        assert (output / place).is_file()
    assert wait_until_gone(started) == []


def kill_a_training_worker(demo: subprocess.Popen[str], lines: Path) -> None:
    """kill -9, once there is a checkpoint to go on from."""
    while not any(line["event"] == "checkpoint" for line in progress.read(lines)):
        assert demo.poll() is None, demo.communicate()
        time.sleep(0.02)
    workers = [process for process in descendants(demo.pid) if b"RayTrainWorker" in command_line(process)]
    os.kill(workers[0], signal.SIGKILL)


def command_line(process: int) -> bytes:
    try:
        return Path(f"/proc/{process}/cmdline").read_bytes()
    except OSError:
        return b""


def wait_until_gone(processes: list[int]) -> list[int]:
    deadline = time.monotonic() + 20
    while (alive := [process for process in processes if command_line(process)]) and time.monotonic() < deadline:
        time.sleep(0.2)
    return alive
