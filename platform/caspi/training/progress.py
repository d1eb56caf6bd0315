"""What rank 0 says about a run: lines in `RUN/progress.jsonl`, which the console follows, and curves in MLflow."""

import contextlib
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Self

from caspi.training.checkpoint import Cursor
from caspi.training.step import StepResult

if TYPE_CHECKING:
    from caspi.training.loop import Job

FILE_NAME = "progress.jsonl"


class Progress:
    """Writes from rank 0; on other ranks it is silent."""

    def __init__(self, lines: IO[str] | None, writer: Any, *, num_steps: int, log_every: int) -> None:
        self._lines, self._writer = lines, writer
        self._num_steps, self._log_every = num_steps, log_every
        self._since = time.perf_counter()
        self._audio_s = self._wait_s = self._loss = 0.0
        self._tokens = self._steps = 0

    @classmethod
    @contextlib.contextmanager
    def open(cls, job: "Job", *, rank: int, cursor: Cursor, num_steps: int) -> Iterator[Self]:
        """Start after `cursor`: lines of steps that will be done again are dropped first."""
        log_every = job.recipe.training.log_every_steps
        if rank != 0:
            yield cls(None, None, num_steps=num_steps, log_every=log_every)
            return
        from caspi.tracking import MetricWriter

        path = job.output / FILE_NAME
        _drop_after(path, cursor.step)
        with path.open("a", encoding="utf-8") as lines:
            writer = MetricWriter(job.tracking_uri, job.run_id, spool=job.output / "metrics.spool.jsonl")
            try:
                yield cls(lines, writer, num_steps=num_steps, log_every=log_every)
            finally:
                writer.close()

    def step(self, cursor: Cursor, result: StepResult, *, learning_rate: float, wait_s: float) -> None:
        """Count one update; every `log_every` steps, and at the first and the last, write a line."""
        self._steps += 1
        self._tokens += result.num_tokens
        self._loss += result.loss * result.num_tokens
        self._audio_s += result.audio_s
        self._wait_s += wait_s
        if cursor.step % self._log_every and cursor.step not in (1, self._num_steps):
            return
        elapsed = time.perf_counter() - self._since
        self._write(
            "step",
            cursor,
            {
                "train/loss": self._loss / self._tokens,
                "train/learning_rate": learning_rate,
                "train/alignment_loss": result.alignment_loss,
                "train/grad_norm": result.grad_norm,
                "train/rtfx": self._audio_s / elapsed,
                "train/step_s": elapsed / self._steps,
                "data/wait_share": self._wait_s / elapsed,
            },
        )
        self._reset()

    def validation(self, cursor: Cursor, *, wer: float, cer: float, seconds: float) -> None:
        self._write("validation", cursor, {"eval/wer": wer, "eval/cer": cer, "eval/seconds": seconds})
        self._reset()

    def checkpoint(self, cursor: Cursor) -> None:
        self._write("checkpoint", cursor, {})
        self._reset()

    def _reset(self) -> None:
        """Time spent on validation and checkpoints is not training speed."""
        self._since = time.perf_counter()
        self._audio_s = self._wait_s = self._loss = 0.0
        self._tokens = self._steps = 0

    def _write(self, event: str, cursor: Cursor, metrics: dict[str, float]) -> None:
        if self._lines is None:
            return
        # The cursor of an epoch's last step points at the next one already.
        epoch = cursor.epoch + (cursor.step_in_epoch > 0)
        line = {"event": event, "epoch": epoch, "step": cursor.step, "num_steps": self._num_steps, **metrics}
        self._lines.write(json.dumps(line) + "\n")
        self._lines.flush()
        if metrics:
            self._writer.log(metrics, step=cursor.step)


def read(path: Path) -> list[dict[str, Any]]:
    """All whole lines so far. A line that a killed worker left half written is not one."""
    try:
        content = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return []
    return [json.loads(line) for line in content.split("\n")[:-1] if line.endswith("}")]


def _drop_after(path: Path, step: int) -> None:
    kept = [line for line in read(path) if line["step"] <= step]
    path.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
