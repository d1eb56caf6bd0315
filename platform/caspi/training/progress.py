"""What a run says while it goes on: lines on disk, which the console follows, and curves and tables in MLflow.

RUN/
  progress.jsonl   an event a line: steps, validations, checkpoints, what went wrong
  answers.jsonl    what the model wrote for the same few utterances at each validation

Every rank counts; rank 0 alone writes.
"""

import contextlib
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from caspi import evaluation
from caspi.model.flops import Workload
from caspi.training import checkpoint, lines
from caspi.training.checkpoint import State
from caspi.training.job import Job
from caspi.training.lines import Lines
from caspi.training.outlook import Outlook
from caspi.training.profiling import PARTS
from caspi.training.step import StepResult
from caspi.training.validation import Judgement

FILE_NAME = "progress.jsonl"
_ANSWERS = "answers.jsonl"

read = lines.read


@dataclass(frozen=True, slots=True)
class Local:
    """What one rank alone knows of the steps since the last line."""

    seconds: Counter[str]  # by the parts of a step; a rank without a share has no forward pass
    memory_bytes: int  # the most so far, of the GPU or else of the process
    peak_flops: float | None  # a second, of its device; None: not known
    node: dict[str, float]  # sensors of its machine; empty on all ranks of a machine but one

    @property
    def busy_s(self) -> float:
        """Until it is ready for the reduction, in which the others wait for it."""
        return self.seconds["wait"] + self.seconds["forward"] + self.seconds["backward"]


@dataclass(frozen=True, slots=True)
class Ranks:
    """How the ranks measure themselves, and tell each other."""

    measure: Callable[[Counter[str]], Local]  # from the seconds of this one
    gather: Callable[[Local], Sequence[Local]]
    flops: Callable[[Workload], float]  # that training needs for it


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
        self._num_positions += result.num_positions
        self._work += result.work
        self._seconds.update({"wait": wait_s, **result.seconds})
        if result.num_halvings and self._record:
            assert state.max_micro_batch_s is not None
            self._record.write("out_of_memory", state, {"train/max_micro_batch_s": state.max_micro_batch_s})
        if state.step % self._log_every and state.step not in (1, self._num_steps):
            return
        ranks = self._ranks.gather(self._ranks.measure(self._seconds))
        if self._record:
            elapsed = time.perf_counter() - self._since
            self._record.outlook.stepped(self._steps, elapsed)
            sensors = {name: value for rank in ranks for name, value in rank.node.items()}
            self._record.write(
                "step",
                state,
                self._metrics(ranks, result, learning_rate, elapsed),
                curves=sensors,
                shown=self._record.outlook.left(state, num_workers=len(ranks)),
            )
        self.restart()

    def _metrics(
        self, ranks: Sequence[Local], result: StepResult, learning_rate: float, elapsed: float
    ) -> dict[str, float]:
        rtfx = self._audio_s / elapsed
        # The others wait for it; its own parts add up to the step, as the largest of each rank would not.
        slowest = max(ranks, key=lambda rank: rank.busy_s)
        return {
            "train/loss": self._loss / self._tokens,
            "train/learning_rate": learning_rate,
            "train/alignment_loss": result.alignment_loss,
            "train/grad_norm": result.grad_norm,
            "train/rtfx": rtfx,
            "train/rtfx_per_worker": rtfx / len(ranks),
            "train/step_s": elapsed / self._steps,
            **{f"step/{part}_s": slowest.seconds[part] / self._steps for part in PARTS},
            **self._utilization(ranks, elapsed),
            "train/memory_gib": max(rank.memory_bytes for rank in ranks) / 2**30,
            "data/padding_share": 1 - self._audio_s / self._padded_s,
            "data/packing_efficiency": self._work.tokens / self._num_positions,
            "data/wait_share": max(rank.seconds["wait"] for rank in ranks) / elapsed,
        }

    def _utilization(self, ranks: Sequence[Local], elapsed: float) -> dict[str, float]:
        """MFU: the arithmetic that the utterances need, as a share of what all devices could have done meanwhile."""
        peaks = [rank.peak_flops for rank in ranks if rank.peak_flops is not None]
        if len(peaks) < len(ranks):
            return {}
        return {"train/mfu": self._ranks.flops(self._work) / elapsed / sum(peaks)}

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
            self._record.write(event, state, {}, shown={"text": text})

    def restart(self) -> None:
        """Count afresh: time spent on validation and checkpoints is not training speed."""
        self._since = time.perf_counter()
        self._audio_s = self._padded_s = self._num_positions = self._loss = 0.0
        self._tokens = self._steps = 0
        self._work = Workload()
        self._seconds: Counter[str] = Counter()


@dataclass
class Record:
    """Rank 0's files and its MLflow run."""

    progress: Lines
    answers: Lines
    writer: Any  # tracking.MetricWriter: it never waits for the server
    num_steps: int
    num_epochs: int
    outlook: Outlook

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
            settings = job.recipe.training
            outlook = Outlook(settings, num_steps, job.judges_aside)
            yield cls(progress, answers, writer, num_steps, settings.epochs, outlook)

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
        shown: dict[str, Any] | None = None,
    ) -> None:
        """A line, and a point of each curve; `curves` are for MLflow alone, and `shown` is for the line."""
        # The state after an epoch's last step points at the next one already.
        epoch = state.epoch + (state.step_in_epoch > 0)
        best = {"best_wer": state.best[0].wer} if state.grades else {}
        self.progress.write(self._place(event, epoch, state.step) | metrics | best | (shown or {}))
        if points := metrics | (curves or {}):
            self.writer.log(points, step=state.step)

    def _place(self, event: str, epoch: int, step: int) -> dict[str, Any]:
        return {
            "event": event,
            "epoch": epoch,
            "num_epochs": self.num_epochs,
            "step": step,
            "num_steps": self.num_steps,
        }

    def judged(self, event: str, state: State, judgement: Judgement) -> None:
        grade = judgement.grade
        metrics = {"eval/wer": grade.wer, "eval/cer": grade.cer, "eval/seconds": judgement.seconds}
        self.outlook.judged(judgement.seconds)
        # It may have been judged aside, and training be further by now.
        self.progress.write(self._place(event, state.epoch, grade.step) | metrics)
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
