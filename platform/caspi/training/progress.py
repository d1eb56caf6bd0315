"""What a run says while it goes on: lines on disk, which the console follows, and curves and tables in MLflow.

RUN/
  progress.jsonl   an event a line: steps, validations, checkpoints, what went wrong
  answers.jsonl    what the model wrote for the same few utterances at each validation

Every rank counts; rank 0 alone writes.
"""

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from caspi import evaluation
from caspi.training import checkpoint, lines
from caspi.training.checkpoint import State
from caspi.training.job import Job
from caspi.training.lines import Lines
from caspi.training.step import StepResult
from caspi.training.validation import Judgement

FILE_NAME = "progress.jsonl"
_ANSWERS = "answers.jsonl"

read = lines.read


@dataclass(frozen=True, slots=True)
class Local:
    """What one rank alone knows of the steps since the last line."""

    wait_s: float  # for data
    memory_bytes: int  # the most so far, of the GPU or else of the process
    node: dict[str, float]  # sensors of its machine; empty on all ranks of a machine but one


@dataclass(frozen=True, slots=True)
class Ranks:
    """How the ranks measure themselves, and tell each other."""

    measure: Callable[[float], Local]  # from the seconds that this one waited for data
    gather: Callable[[Local], Sequence[Local]]


class Progress:
    """Counts steps; every `log_every` of them, all ranks tell rank 0, and it writes a line."""

    def __init__(self, record: "Record | None", ranks: Ranks, *, num_steps: int, log_every: int) -> None:
        self._record, self._ranks = record, ranks
        self._num_steps, self._log_every = num_steps, log_every
        self.restart()

    @classmethod
    @contextlib.contextmanager
    def open(cls, job: Job, ranks: Ranks, *, rank: int, state: State, num_steps: int) -> Iterator[Self]:
        """Start after `state`: lines of steps that will be done again are dropped first."""
        log_every = job.recipe.training.log_every_steps
        if rank != 0:
            yield cls(None, ranks, num_steps=num_steps, log_every=log_every)
            return
        with Record.open(job, state, num_steps) as record:
            yield cls(record, ranks, num_steps=num_steps, log_every=log_every)

    @property
    def error(self) -> OSError | None:
        """What the disk said when it did not take a line."""
        return self._record.error if self._record else None

    def step(self, state: State, result: StepResult, *, learning_rate: float, wait_s: float) -> None:
        """Count one update; every `log_every` steps, and at the first and the last, write a line. All ranks call it."""
        self._steps += 1
        self._tokens += result.num_tokens
        self._loss += result.loss * result.num_tokens
        self._audio_s += result.audio_s
        self._padded_s += result.padded_s
        self._wait_s += wait_s
        if result.num_halvings and self._record:
            assert state.max_micro_batch_s is not None
            self._record.write("out_of_memory", state, {"train/max_micro_batch_s": state.max_micro_batch_s})
        if state.step % self._log_every and state.step not in (1, self._num_steps):
            return
        ranks = self._ranks.gather(self._ranks.measure(self._wait_s))
        if self._record:
            sensors = {name: value for rank in ranks for name, value in rank.node.items()}
            self._record.write("step", state, self._metrics(ranks, result, learning_rate), curves=sensors)
        self.restart()

    def _metrics(self, ranks: Sequence[Local], result: StepResult, learning_rate: float) -> dict[str, float]:
        elapsed = time.perf_counter() - self._since
        rtfx = self._audio_s / elapsed
        return {
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

    def judged(self, state: State, judgement: Judgement, *, event: str = "validation") -> None:
        """A model was judged: after a step, or the average of several."""
        if self._record:
            self._record.judged(event, state, judgement)

    def checkpoint(self, state: State, folder: Path) -> None:
        """A checkpoint is whole and in its place."""
        if self._record:
            self._record.checkpoint(state, folder)

    def forget(self, step: int) -> None:
        """A checkpoint was removed."""
        if self._record:
            self._record.forget(step)

    def say(self, event: str, state: State, text: str) -> None:
        """Something that a person should know."""
        if self._record:
            self._record.write(event, state, {}, text=text)

    def restart(self) -> None:
        """Count afresh: time spent on validation and checkpoints is not training speed."""
        self._since = time.perf_counter()
        self._audio_s = self._padded_s = self._wait_s = self._loss = 0.0
        self._tokens = self._steps = 0


@dataclass
class Record:
    """Rank 0's files and its MLflow run."""

    progress: Lines
    answers: Lines
    writer: Any  # tracking.MetricWriter: it never waits for the server
    num_steps: int

    @classmethod
    @contextlib.contextmanager
    def open(cls, job: Job, state: State, num_steps: int) -> Iterator[Self]:
        from caspi.tracking import MetricWriter, hardware

        with contextlib.ExitStack() as stack:
            writer = MetricWriter(job.tracking_uri, job.run_id, spool=job.output / "metrics.spool.jsonl")
            stack.callback(writer.close)
            writer.log_tags(hardware())  # the driver's machine may be another, without a GPU
            progress, answers = (Lines(job.output / name, after_step=state.step) for name in (FILE_NAME, _ANSWERS))
            stack.callback(progress.close)
            stack.callback(answers.close)
            yield cls(progress, answers, writer, num_steps)

    @property
    def error(self) -> OSError | None:
        return self.progress.error or self.answers.error

    def write(
        self,
        event: str,
        state: State,
        metrics: dict[str, float],
        *,
        curves: dict[str, float] | None = None,
        text: str = "",
    ) -> None:
        """A line, and a point of each curve; those of `curves` are for MLflow alone."""
        # The state after an epoch's last step points at the next one already.
        epoch = state.epoch + (state.step_in_epoch > 0)
        line = {"event": event, "epoch": epoch, "step": state.step, "num_steps": self.num_steps, **metrics}
        self.progress.write(line | ({"text": text} if text else {}))
        if points := metrics | (curves or {}):
            self.writer.log(points, step=state.step)

    def judged(self, event: str, state: State, judgement: Judgement) -> None:
        grade = judgement.grade
        metrics = {"eval/wer": grade.wer, "eval/cer": grade.cer, "eval/seconds": judgement.seconds}
        # It may have been judged aside, and training be further by now.
        line = {"event": event, "epoch": state.epoch, "step": grade.step, "num_steps": self.num_steps, **metrics}
        self.progress.write(line)
        if event == "validation":
            self.writer.log(metrics, step=grade.step)
        for answer in judgement.answers:
            score = evaluation.score([answer.reference], [answer.hypothesis], language=judgement.language)
            row = {
                "step": grade.step,
                "reference": answer.reference,
                "hypothesis": answer.hypothesis,
                "wer": round(score.wer, 3),
                "utterance_id": answer.utterance_id,
            }
            self.answers.write(row)
            self.answers.kept.append(row)
        self.writer.log_table(self.answers.kept, "validation.json")

    def checkpoint(self, state: State, folder: Path) -> None:
        from caspi.tracking import Checkpoint
        from caspi.tracking.model_files import ModelFiles

        self.write("checkpoint", state, {})
        grade = next((grade for grade in state.grades if grade.step == state.step), None)
        metrics = {"eval/wer": grade.wer, "eval/cer": grade.cer} if grade else {}
        is_best = bool(state.best) and state.best[0].step == state.step
        files = ModelFiles(*checkpoint.files(folder))
        self.writer.log_checkpoint(Checkpoint(state.step, str(folder), metrics, files, is_best))

    def forget(self, step: int) -> None:
        self.writer.forget_checkpoint(step)
