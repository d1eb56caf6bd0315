"""How fast this machine trains, by a few real steps on all workers of a recipe: what `caspi plan --gpu cpu` does."""

import functools
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from caspi import ray_session
from caspi.corpus import Corpus
from caspi.model import describe
from caspi.model.flops import Workload, training_flops
from caspi.recipe import Recipe
from caspi.recipe.sections import Collation
from caspi.training import device_memory
from caspi.training.bounds import Bounds
from caspi.training.feed import ahead
from caspi.training.job import Job
from caspi.training.lengths import LengthIndex
from caspi.training.outlook import num_validations
from caspi.training.profiling import waiting
from caspi.training.step import Stop
from caspi.training.survey import Survey, Surveyor

_WARM_UP = 3  # steps that are not counted
_LONGEST_S = 60.0  # of counted steps, where they are long


@dataclass(frozen=True, slots=True)
class Speed:
    """What a few steps took."""

    num_workers: int
    collation: Collation
    bounds: Bounds  # of micro-batches
    first: int  # the first step that was counted
    seconds: tuple[float, ...]  # of each
    validation_s: float  # of one, with the model as it was then; 0 where the corpus has nothing to validate with
    memory_bytes: int  # of the largest worker


@dataclass(frozen=True, slots=True)
class MeasuredPlan:
    """All that `caspi plan` says of this machine."""

    survey: Survey
    speed: Speed
    steps_s: float
    validations_s: float

    @property
    def hours(self) -> float:
        return (self.steps_s + self.validations_s) / 3600

    def cost(self, price_per_hour: float) -> float:
        """Of the whole run, at the price of one worker."""
        return self.hours * price_per_hour * self.survey.num_workers


def measure(recipe: Recipe, corpus: str | Path, *, num_steps: int = 20) -> MeasuredPlan:
    """Train for a few steps on this machine and say what the whole run will take. Nothing of them is kept.

    Raises:
        RequestError: the corpus or model is not what it must be, or this machine has fewer CPUs than the recipe wants.
    """
    from caspi.training.launch import check_resources, fit, start_model

    opened = Corpus.open(corpus)
    opened.index("train")
    with ray_session.connect(), tempfile.TemporaryDirectory(prefix="caspi-plan-") as folder:
        check_resources(recipe.training)
        output = Path(folder)
        start = start_model(recipe, opened, output)
        config, prompter = describe(start)
        LengthIndex.build(opened, prompter, output / "lengths")  # the workers open it
        job = Job(recipe, opened, start, output, tracking_uri="", run_id="")
        speed: Speed = fit(job, functools.partial(measure_loop, num_steps=num_steps))
        surveyor = Surveyor.of_run(
            recipe,
            opened,
            prompter,
            output / "lengths",
            num_workers=speed.num_workers,
            collation=speed.collation,
        )
        surveyed = surveyor.survey(config, speed.bounds)
    counted = surveyed.step_work[speed.first : speed.first + len(speed.seconds)]
    share = _flops(config, counted) / _flops(config, surveyed.step_work)
    return MeasuredPlan(
        survey=surveyed,
        speed=speed,
        steps_s=sum(speed.seconds) / share,
        validations_s=speed.validation_s * num_validations(recipe.training, surveyed.num_steps),
    )


def measure_loop(job: Job, *, num_steps: int) -> Speed:
    """A few steps of a run, and one validation, in every worker of Ray Train."""
    from caspi.training.worker import Worker, gather

    worker = Worker.start(job, None)
    worker.calibrate()
    seconds: list[float] = []
    feed = ahead(worker.remaining_shares)
    try:
        for share, wait_s in waiting(feed):
            started = time.perf_counter()
            # All ranks must stop at the same step, so the wish of each goes with the totals.
            is_enough = len(seconds) >= _WARM_UP + num_steps or sum(seconds[_WARM_UP:]) > _LONGEST_S
            _, result = worker.step(share, stop=Stop.PATIENCE if is_enough else Stop.NO)
            seconds.append(wait_s + time.perf_counter() - started)
            if result.stop is not Stop.NO:
                break
    finally:
        feed.close()
    first = min(_WARM_UP, len(seconds) - 1)
    judgement = worker.judge()
    assert worker.bounds is not None
    return Speed(
        num_workers=worker.world_size,
        collation=worker.maker.collation,
        bounds=worker.bounds,
        first=first,
        seconds=tuple(seconds[first:]),
        validation_s=judgement.seconds if judgement else 0.0,
        memory_bytes=max(gather(device_memory.peak_bytes(worker.device), worker.world_size)),
    )


def _flops(config: object, steps: Iterable[Workload]) -> float:
    return training_flops(config, sum(steps, Workload()))
