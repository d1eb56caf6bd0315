"""What tests of whole runs share."""

import collections
import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from safetensors.torch import load_file

from caspi.corpus import Corpus
from caspi.memory import descendants
from caspi.recipe import Recipe, parse_recipe
from caspi.training import progress, seen
from caspi.training.items import is_silence, parts_of


def changed(recipe: Recipe, **training: object) -> Recipe:
    """The recipe with other values under `training`; sections are merged."""
    values = recipe.model_dump(mode="json")
    for key, value in training.items():
        old = values["training"][key]
        values["training"][key] = old | value if isinstance(old, dict) and isinstance(value, dict) else value
    return parse_recipe(values)


def newest(output: Path) -> Path:
    """The newest checkpoint: the end of the run, whichever model was best."""
    return max((output / "checkpoints").glob("checkpoint-*"))


def weights(output: Path) -> dict:
    return load_file(newest(output) / "model" / "model.safetensors")


def difference(one: Path, other: Path) -> float:
    """The largest difference between the weights that two runs end with."""
    ours, theirs = weights(one), weights(other)
    assert ours.keys() == theirs.keys()
    return max(float((ours[name] - theirs[name]).abs().max()) for name in ours)


def lines(output: Path, event: str = "step") -> list[dict]:
    return [line for line in progress.read(output / "progress.jsonl") if line["event"] == event]


def steps(output: Path) -> list[int]:
    return [line["step"] for line in lines(output)]


def assert_each_utterance_once(output: Path, corpus: Corpus, epochs: int) -> None:
    """And besides the utterances one made-up clip without speech in each epoch, as the recipe says."""
    steps = seen.read(output / "seen").values()
    counted = collections.Counter(each for step in steps for each in parts_of(np.array(step, np.int64)).tolist())
    silent = [item for item in counted if is_silence(item)]
    assert [counted.pop(item) for item in silent] == [epochs]
    assert counted == {position: epochs for position in range(len(corpus.index("train")))}


def workers(root: int) -> list[int]:
    """Process ids of the training workers below `root`."""
    return [process for process in descendants(root) if b"RayTrainWorker" in command_line(process)]


def command_line(process: int) -> bytes:
    try:
        return Path(f"/proc/{process}/cmdline").read_bytes()
    except OSError:
        return b""


def start(recipe: Path, corpus: Path, output: Path, home: Path, *words: str) -> subprocess.Popen[str]:
    """`caspi train` as a command of its own, which can be killed whole."""
    command = [sys.executable, "-m", "caspi", "train", recipe, "--corpus", corpus, "--output", output, *words]
    return subprocess.Popen(
        list(map(str, command)),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "CASPI_HOME": str(home)},
        start_new_session=True,
    )


def kill_whole(process: subprocess.Popen[str]) -> None:
    """kill -9 of a command and of all that it started, as when a machine loses power."""
    for each in [process.pid, *descendants(process.pid)]:
        try:
            os.kill(each, signal.SIGKILL)
        except ProcessLookupError:
            continue
    process.communicate(timeout=60)


@contextlib.contextmanager
def worker_killed_after_a_checkpoint(output: Path) -> Iterator[None]:
    """kill -9 for a worker of the run that the block does in this process, once there is a checkpoint."""

    def kill_a_worker() -> None:
        wait_for(lambda: [line for line in lines(output, "checkpoint") if line["step"] > 0])
        os.kill(workers(os.getpid())[-1], signal.SIGKILL)

    thread = threading.Thread(target=kill_a_worker)
    thread.start()
    yield
    thread.join()


def wait_for(condition, *, timeout_s: float = 120.0, pause_s: float = 0.02):
    """Ask until it is true, and return what it said."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if found := condition():
            return found
        time.sleep(pause_s)
    raise AssertionError(f"did not come true within {timeout_s:.0f} s")
