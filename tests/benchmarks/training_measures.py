"""What is asked and what is measured of a way to train, both as JSON. Each is asked of a process of its own."""

import json
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

import torch

from caspi.model import Batch

STEP_UTTERANCES = 32  # 2 x 16 accumulated, as in the run that is known best by its log


@dataclass(frozen=True)
class Way:
    """How to train through the corpus once."""

    kind: Literal["caspi", "trainer"]
    device: str = "cpu"
    precision: str = "fp32"
    num_threads: int = 2  # of a CPU
    training: Mapping[str, Any] = field(default_factory=dict)  # of Caspi: what its recipe says of training
    sampling: str = "random"  # of Trainer, as everything below
    batch_size: int = 2
    num_readers: int = 0  # processes that make batches; Caspi has a thread
    num_utterances: int | None = None  # the first ones; default: all
    num_steps: int | None = None  # of Caspi: the first ones; default: all

    @classmethod
    def parse(cls, text: str) -> Self:
        return cls(**json.loads(text))


@dataclass
class Measured:
    """What it took."""

    seconds: float = 0.0
    wait_s: float = 0.0  # of them, for data
    cpu_s: float = 0.0  # of this process, all threads together
    num_utterances: int = 0
    num_steps: int = 0
    num_batches: int = 0
    num_halvings: int = 0  # how often memory ran out
    audio_s: float = 0.0
    padded_s: float = 0.0
    num_tokens: int = 0  # of the decoder, padding included
    num_real_tokens: int = 0
    num_supervised: int = 0
    flops: float = 0.0  # of the utterances, padding and what is computed twice left out
    peak_flops: float = 0.0  # a second, of the device; 0: not known
    before_bytes: int = 0  # of memory, when it began to be watched
    peak_bytes: int = 0  # since then
    device_bytes: int = 0  # of a GPU
    loss: float = 0.0  # of the trained model, on the same utterances for all

    def count(self, batch: Batch, flops: float) -> None:
        self.num_batches += 1
        self.num_utterances += batch.num_utterances
        self.audio_s += batch.audio_s
        self.padded_s += batch.padded_s
        self.num_tokens += batch.num_tokens
        self.num_real_tokens += batch.num_real_tokens
        self.num_supervised += batch.num_supervised
        self.flops += flops

    @property
    def speed(self) -> float:
        """Utterances per second."""
        return self.num_utterances / self.seconds

    @property
    def cpu_speed(self) -> float:
        """Utterances per CPU second: what other work on the machine changes least, with one thread above all."""
        return self.num_utterances / self.cpu_s

    @property
    def mfu(self) -> float:
        return self.flops / self.seconds / self.peak_flops if self.peak_flops else float("nan")


def ask(module: str, *arguments: str) -> Measured:
    """Run a module of the benchmarks whose last line is a Measured as JSON."""
    command = [sys.executable, "-m", f"tests.benchmarks.{module}", *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return Measured(**json.loads(done.stdout.splitlines()[-1]))


def answer(measured: Measured) -> None:
    print(json.dumps(asdict(measured)))


class Clock:
    """Wall and CPU seconds since it was made, for a Measured."""

    def __init__(self) -> None:
        self._started, self._cpu_before = time.perf_counter(), time.process_time()

    def stop(self, measured: Measured) -> None:
        measured.seconds = time.perf_counter() - self._started
        measured.cpu_s = time.process_time() - self._cpu_before


class Memory:
    """The most memory used since the last `restart`: of the GPU, or of this process."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def restart(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
        else:
            Path("/proc/self/clear_refs").write_text("5")  # the mark is where the process stands now

    def peak_bytes(self) -> int:
        if self._device.type == "cuda":
            return torch.cuda.max_memory_reserved(self._device)
        # Not `ru_maxrss`, which begins with that of the parent and is never taken back.
        lines = Path("/proc/self/status").read_text().splitlines()
        return 1024 * int(next(line for line in lines if line.startswith("VmHWM:")).split()[1])
