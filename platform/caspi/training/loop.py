"""The training loop that Ray Train runs in every worker."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import ray.train

from caspi.errors import CaspiError
from caspi.training import averaging, seen
from caspi.training.feed import ahead
from caspi.training.job import Job, Outcome
from caspi.training.keeping import Keeper, is_judged, is_saved
from caspi.training.profiling import Trace, waiting
from caspi.training.progress import Progress
from caspi.training.seen import Record
from caspi.training.step import DoesNotFit, Stop
from caspi.training.store import Store, storage_error
from caspi.training.worker import Worker, from_rank_0


def train_loop(job: Job) -> Outcome:
    """Fine-tune on this worker's share of each step.

    What goes wrong on all ranks at once is returned, and the run ends. What goes wrong on one alone is raised: Ray
    Train starts all of them again, from the newest checkpoint.
    """
    store, rank = Store(job.output / "checkpoints"), ray.train.get_context().get_world_rank()
    start = _Start.agree(store, rank)
    worker = Worker.start(job, start.restored)
    with contextlib.ExitStack() as stack:
        progress = stack.enter_context(
            Progress.open(job, worker.watch(), rank=rank, state=worker.state, num_steps=worker.num_steps)
        )
        wanted = job.recipe.training.record_utterances
        record = stack.enter_context(Record.open(job.output / "seen", group=start.group, rank=rank, wanted=wanted))
        keeper = Keeper.open(job, store, worker.loaded, worker.state) if rank == 0 else None
        if keeper is not None:
            stack.callback(keeper.close)
        for problem in start.problems:
            progress.say("damaged_checkpoint", worker.state, problem)
        if start.restored is not None:
            progress.say("resumed", worker.state, f"{start.restored.name} on {worker.world_size} workers")
        if worker.not_compiled:
            progress.say("not_compiled", worker.state, worker.not_compiled)
        try:
            if calibration := worker.calibrate():
                progress.say("memory", worker.state, str(calibration))
            return _Loop(worker, progress, record, keeper).run(is_fresh=start.restored is None)
        except DoesNotFit as error:
            return Outcome("failed", error)


@dataclass(frozen=True, slots=True)
class _Start:
    """What all ranks must agree on."""

    restored: Path | None  # the checkpoint to go on from
    group: str  # a name for this group of workers
    problems: list[str]  # with newer checkpoints

    @classmethod
    def agree(cls, store: Store, rank: int) -> "_Start":
        """Rank 0 looks, and tells the others."""
        start = None
        if rank == 0:
            store.claim()
            restored, problems = store.newest_good()
            start = cls(restored, seen.new_group(), problems)
        agreed: _Start = from_rank_0(start, ray.train.get_context().get_world_size())
        return agreed


@dataclass
class _Loop:
    worker: Worker
    progress: Progress
    record: Record
    keeper: Keeper | None  # on rank 0 alone
    error: CaspiError | None = None  # rank 0's reason for Stop.FAILED

    def run(self, *, is_fresh: bool) -> Outcome:
        """Step after step, to the end or a good reason to stop before it."""
        if is_fresh:
            self._mark(judge=True)  # how good it is before training; and something to go back to
        elif not self.worker.job.judges_aside and self.worker.is_ungraded():
            self._judge()  # it was to be judged aside, and is not any more
        feed = ahead(self.worker.remaining_shares)
        trace = Trace(
            self.worker.job.output / "profile", rank=self.worker.rank, num_steps=self.worker.job.profile_steps
        )
        stop = Stop.NO
        try:
            # The plan gives every rank the same number of steps: a reduction that one never joins hangs the rest.
            for share, wait_s in waiting(feed):
                rate, result = self.worker.step(share, stop=self._wish())
                stop = result.stop
                self.record.add(self.worker.state.step, share.items)
                self.progress.step(self.worker.state, result, learning_rate=rate, wait_s=wait_s)
                if stop is Stop.FAILED:
                    return Outcome("failed", self.error)
                self._after_step(stop)
                self._trace(trace.step())
                if stop is not Stop.NO:
                    break
        finally:
            feed.close()
            self._trace(trace.close())
        if stop is not Stop.PREEMPTED:
            self._follow(to_the_end=True)
            averaging.try_average(self.worker, self.keeper, self.progress)
        self._settle()
        if self.error is not None:
            return Outcome("failed", self.error)
        return Outcome("preempted" if stop is Stop.PREEMPTED else "finished")

    def _wish(self) -> Stop:
        """Whether this rank wants the run to end after the next step."""
        if self.progress.error is not None:
            self.error = self.error or storage_error(self.progress.error)
        if self.error is not None:
            return Stop.FAILED
        if self.worker.is_preempted():
            return Stop.PREEMPTED
        patience = self.worker.job.recipe.training.validation.patience
        is_enough = patience is not None and self.worker.state.num_without_gain >= patience
        return Stop.PATIENCE if is_enough else Stop.NO

    def _after_step(self, stop: Stop) -> None:
        recipe, state = self.worker.job.recipe, self.worker.state
        is_last = self.worker.is_done
        if stop is not Stop.NO or is_last or is_saved(recipe, state):
            self._mark(judge=stop is Stop.NO and (is_last or is_judged(recipe, state)))
        self._follow()

    def _trace(self, is_written: bool) -> None:
        """Say where the trace is, once it is whole. Writing it is no training time."""
        if is_written:
            self.progress.say("profile", self.worker.state, str(self.worker.job.output / "profile"))
            self.progress.restart()

    def _mark(self, *, judge: bool) -> None:
        """Judge the model, unless that is done aside, and write a checkpoint."""
        if judge and not self.worker.job.judges_aside:
            self._judge()
        is_ready = False
        if self.keeper is not None:
            with self._no_lonely_error():
                self.keeper.wait()
                is_ready = True
        snapshot = self.worker.snapshot()  # of a sharded model by all ranks, whatever became of the one before
        if self.keeper is not None and snapshot is not None and is_ready:
            self.keeper.save(snapshot, judge=judge)
        self.progress.restart()

    def _judge(self) -> None:
        judgement = self.worker.judge()
        if judgement is not None:
            self.progress.judged(self.worker.state, judgement)

    def _follow(self, *, to_the_end: bool = False) -> None:
        """See what has become of checkpoints and of models that are judged aside."""
        if self.keeper is None:
            return
        if to_the_end:
            self._settle()
        with self._no_lonely_error():
            self._report_checkpoints(self.keeper)
            for judgement in self.keeper.judged(all_of_them=to_the_end):
                self.worker.state = self.worker.state.graded(judgement.grade)
                self.progress.judged(self.worker.state, judgement)
                self.keeper.tidy(self.worker.state)

    def _settle(self) -> None:
        """Wait until what was begun is on the disk."""
        if self.keeper is not None:
            with self._no_lonely_error():
                self.keeper.wait()
                self._report_checkpoints(self.keeper)

    def _report_checkpoints(self, keeper: Keeper) -> None:
        for state in keeper.written():
            self.progress.checkpoint(state, keeper.store.path(state.step))
        for step in keeper.removed():
            self.progress.forget(step)

    @contextlib.contextmanager
    def _no_lonely_error(self) -> Iterator[None]:
        """What fails rank 0 alone must not leave the others waiting: they learn of it with the next step."""
        try:
            yield
        except CaspiError as error:
            self.error = self.error or error
