"""What a run says while it goes on: lines in `RUN/progress.jsonl`, which the console follows, and curves in MLflow.

Every rank counts; rank 0 alone writes. No write of it ever fails the step: a disk that is full is told to the loop,
which stops all ranks together.
"""

import contextlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Self

from caspi.training.checkpoint import State
from caspi.training.job import Job
from caspi.training.step import StepResult
from caspi.training.validation import Judgement

FILE_NAME = "progress.jsonl"


@dataclass(frozen=True, slots=True)
class Local:
    """What one rank alone knows of the steps since the last line."""

    wait_s: float  # for data
    memory_bytes: int  # the most so far, of the GPU or else of the process
    node: dict[str, float]  # sensors of its machine; empty on all ranks of a machine but one


class Progress:
    """Counts steps; every `log_every` of them, all ranks tell rank 0, and it writes a line."""

    def __init__(
        self,
        lines: IO[str] | None,
        writer: Any,
        *,
        gather: Callable[[Local], Sequence[Local]],
        measure: Callable[[float], Local],
        num_steps: int,
        log_every: int,
    ) -> None:
        self._lines, self._writer = lines, writer
        self._gather, self._measure = gather, measure
        self._num_steps, self._log_every = num_steps, log_every
        self.error: OSError | None = None  # the disk did not take a line
        self.restart()

    @classmethod
    @contextlib.contextmanager
    def open(
        cls,
        job: Job,
        *,
        rank: int,
        state: State,
        num_steps: int,
        gather: Callable[[Local], Sequence[Local]],
        measure: Callable[[float], Local],
    ) -> Iterator[Self]:
        """Start after `state`: lines of steps that will be done again are dropped first."""
        log_every = job.recipe.training.log_every_steps
        settings: dict[str, Any] = dict(gather=gather, measure=measure, num_steps=num_steps, log_every=log_every)
        if rank != 0:
            yield cls(None, None, **settings)
            return
        from caspi.tracking import MetricWriter

        path = job.output / FILE_NAME
        _drop_after(path, state.step)
        writer = MetricWriter(job.tracking_uri, job.run_id, spool=job.output / "metrics.spool.jsonl")
        try:
            with path.open("a", encoding="utf-8") as lines:
                yield cls(lines, writer, **settings)
        finally:
            writer.close()

    def step(self, state: State, result: StepResult, *, learning_rate: float, wait_s: float) -> None:
        """Count one update; every `log_every` steps, and at the first and the last, write a line. All ranks call it."""
        self._steps += 1
        self._tokens += result.num_tokens
        self._loss += result.loss * result.num_tokens
        self._audio_s += result.audio_s
        self._padded_s += result.padded_s
        self._wait_s += wait_s
        if result.num_halvings:
            self._write("out_of_memory", state, {"train/max_micro_batch_s": state.max_micro_batch_s or 0.0})
        if state.step % self._log_every and state.step not in (1, self._num_steps):
            return
        ranks = self._gather(self._measure(self._wait_s))
        elapsed = time.perf_counter() - self._since
        rtfx = self._audio_s / elapsed
        metrics = {
            "train/loss": self._loss / self._tokens,
            "train/learning_rate": learning_rate,
            "train/alignment_loss": result.alignment_loss,
            "train/grad_norm": result.grad_norm,
            "train/rtfx": rtfx,
            "train/rtfx_per_worker": rtfx / len(ranks),
            "train/step_s": elapsed / self._steps,
            "train/memory_gib": max(rank.memory_bytes for rank in ranks) / 2**30,
            "data/padding_share": 1 - self._audio_s / self._padded_s,
            # The slowest rank's: the others wait for it.
            "data/wait_share": max(rank.wait_s for rank in ranks) / elapsed,
        }
        self._write("step", state, metrics)
        if self._writer is not None:
            self._writer.log({name: value for rank in ranks for name, value in rank.node.items()}, step=state.step)
        self.restart()

    def judged(self, state: State, judgement: Judgement, *, event: str = "validation") -> None:
        """A model was judged: after a step, or the average of several."""
        grade = judgement.grade
        metrics = {"eval/wer": grade.wer, "eval/cer": grade.cer, "eval/seconds": judgement.seconds}
        self._write(event, state, metrics, step=grade.step)

    def checkpoint(self, state: State) -> None:
        """A checkpoint is whole and in its place."""
        self._write("checkpoint", state, {})

    def say(self, event: str, state: State, text: str) -> None:
        """Something that a person should know."""
        self._write(event, state, {}, text=text)

    def restart(self) -> None:
        """Count afresh: time spent on validation and checkpoints is not training speed."""
        self._since = time.perf_counter()
        self._audio_s = self._padded_s = self._wait_s = self._loss = 0.0
        self._tokens = self._steps = 0

    def _write(self, event: str, state: State, metrics: dict[str, float], **others: Any) -> None:
        if self._lines is None:
            return
        # The state after an epoch's last step points at the next one already.
        epoch = state.epoch + (state.step_in_epoch > 0)
        line = {"event": event, "epoch": epoch, "step": state.step, "num_steps": self._num_steps, **metrics, **others}
        try:
            self._lines.write(json.dumps(line, ensure_ascii=False) + "\n")
            self._lines.flush()
        except OSError as error:
            self.error = self.error or error
        if metrics:
            self._writer.log(metrics, step=line["step"])


def read(path: Path) -> list[dict[str, Any]]:
    """All whole lines so far. A line that a killed worker left half written is not one."""
    try:
        content = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return []
    return [json.loads(line) for line in content.split("\n")[:-1] if line.endswith("}")]


def _drop_after(path: Path, step: int) -> None:
    kept = [line for line in read(path) if line["step"] <= step]
    path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in kept), encoding="utf-8")
