"""Starting a training run on the cluster: model, MLflow run, TorchTrainer, and what is left behind.

RUN/
  run.json        the MLflow run, and what is needed to resume
  recipe.yaml     the resolved recipe
  start/          the model that training starts from, where it is made here
  lengths/        the length index that the plan is made from
  memory/         how much memory micro-batches take, where that was measured
  model/          the best model so far, by WER on the validation split
  checkpoints/    what a run that was interrupted goes on from, see store.py
  ray/            what Ray Train keeps of each group of workers; nothing that is needed again
  progress.jsonl  what the console shows
  profile/        traces of a few steps, where asked for
  seen/           which utterances each step saw, where the recipe asks for it
"""

import contextlib
import errno
import functools
import json
import logging
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from caspi import ray_session, settings, tracking
from caspi.allocation import ONE_HEAP
from caspi.corpus import Corpus
from caspi.corpus.commit import hold
from caspi.errors import CaspiError, RequestError, RunError, TrackingError, TrainingError
from caspi.model import describe, load_prompter
from caspi.recipe import Recipe, show
from caspi.recipe.sections import Training
from caspi.text import language_name
from caspi.training import parameters, progress
from caspi.training.augment import check_recordings
from caspi.training.entry import train_worker
from caspi.training.job import Job, MemoryLimit, Outcome
from caspi.training.lengths import LengthIndex
from caspi.training.plan import plan_run
from caspi.training.profiling import check_profile
from caspi.training.resuming import check_output, check_same_run, start_digest
from caspi.training.store import storage_error

logger = logging.getLogger(__name__)

# Without it the allocator cannot join what is free, and a GPU is full while much of it is unused. Read by torch when it
# first touches the GPU, so before our code runs.
_GPU_ENVIRONMENT = {"PYTORCH_ALLOC_CONF": "expandable_segments:True"}

_STORAGE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.ESTALE)

OnProgress = Callable[[dict[str, Any]], None]


@dataclass(frozen=True, slots=True)
class TrainResult:
    """A finished run."""

    model: Path
    run_id: str
    loss_first: float
    loss_last: float
    best_wer: float | None
    rtfx: float  # seconds of audio per second of training, validation and checkpoints left out


def train(
    recipe: Recipe,
    *,
    corpus: str | Path,
    output: str | Path,
    resume: bool = False,
    on_progress: OnProgress | None = None,
    memory_limit: MemoryLimit | None = None,
    profile_steps: int = 0,
) -> TrainResult:
    """Fine-tune `recipe.model` on a prepared corpus; the best model is at `output/model`.

    Args:
        resume: go on with the run that `output` holds. Without it a folder that holds a run is refused.
        on_progress: called with each line of progress.jsonl as it is written.
        memory_limit: let memory run out on purpose, to see what comes of it.
        profile_steps: trace so many steps on each worker, after the first ones, into `output/profile`.

    Raises:
        RequestError: the corpus, model or output folder is not what it must be; nothing was started.
        TrainingError: training failed more often than `training.workers.max_failures` allows.
        StorageError: the disk is full or gone; earlier checkpoints are untouched.
    """
    output, opened = Path(output).absolute(), Corpus.open(corpus)
    opened.index("train")
    check_output(output, resume=resume)
    if resume:
        check_same_run(recipe, opened, output)
    with ray_session.connect(), tracking.server() as uri:
        check_resources(recipe.training)
        output.mkdir(parents=True, exist_ok=True)
        with hold(output / "lock", whose="training", error=RunError):
            start = start_model(recipe, opened, output)
            # Checked and planned here only to refuse, before anything is started, what does not fit.
            parameters.check(recipe.training, describe(start)[0])
            check_recordings(recipe.training.augmentation)
            digest = start_digest(recipe, start, output, resume=resume)
            plans = plan_run(LengthIndex.build(opened, load_prompter(start), output / "lengths"), recipe.training)
            check_profile(profile_steps, num_steps=sum(plan.num_steps for plan in plans))
            run_id = _run_id(recipe, opened, output, uri, digest, resume=resume)
            (output / "recipe.yaml").write_text(show(recipe), encoding="utf-8")
            aside = _judges_aside(recipe)
            job = Job(recipe, opened, start, output, uri, run_id, digest, aside, memory_limit, profile_steps)
            try:
                with _measured_memory(output / "memory"), _following(output / progress.FILE_NAME, on_progress):
                    _run_to_the_end(job)
            except BaseException:
                with contextlib.suppress(TrackingError):  # what stopped the run is the news
                    tracking.finish_run(uri, run_id, status="FAILED")
                raise
        result = _summary(output, run_id)
        try:
            _publish(recipe, output, uri, result)
        except TrackingError as error:
            raise TrackingError(f"training is done and its model safe at {result.model}, but {error}") from error
    return result


def check_resources(training: Training) -> None:
    """Refuse at once what a Ray of this machine alone can never give. A cluster may grow, so there Ray waits.

    Raises:
        RequestError: the recipe asks for more CPUs or GPUs than there are.
    """
    import ray

    if settings.read().ray_address:
        return
    workers = training.workers
    num_places = workers.fewest + (training.validation.aside == "always")
    needed = {"CPU": num_places * workers.cpus_per_worker, "GPU": num_places * workers.use_gpu}
    for kind, amount in needed.items():
        if amount > (there := ray.cluster_resources().get(kind, 0)):
            raise RequestError(
                f"training.workers asks for {amount:g} {kind}s, and this machine's Ray has {there:g}; change "
                "training.workers (or training.validation.aside, which takes one place more), or run it on a cluster "
                "with `caspi submit train_model`"
            )


def start_model(recipe: Recipe, corpus: Corpus, output: Path) -> str:
    """Where the workers load weights from: a Hub id as it is, anything else as a folder."""
    if recipe.model.init != "toy":
        return tracking.locate_model(recipe.model.init)
    folder = output / "start"
    if not (folder / "model.safetensors").exists():
        from caspi.model import Loaded, build_toy

        model, processor = build_toy(
            recipe.model.toy,
            texts=corpus.read_table("train", ["text"])["text"].to_pylist(),
            language=language_name(recipe.data.language),
            seed=recipe.training.seed,
        )
        Loaded.wrap(model, processor).save(folder)
    return str(folder)


def _judges_aside(recipe: Recipe) -> bool:
    """Whether models are judged in tasks beside the run: where there is room for one worker more, unless told."""
    import ray

    aside, workers = recipe.training.validation.aside, recipe.training.workers
    if aside != "auto":
        return aside == "always"
    there, all_and_one = ray.cluster_resources(), workers.most + 1
    has_cpus = there.get("CPU", 0) >= all_and_one * workers.cpus_per_worker
    return has_cpus and there.get("GPU", 0) >= all_and_one * workers.use_gpu


def _run_to_the_end(job: Job) -> None:
    """Start groups of workers until one has finished. One whose machine is taken away leaves its work to the next.

    Raises:
        CaspiError: what ended the run before its last step.
    """
    outcome: Outcome
    while (outcome := fit(job)).kind == "preempted":
        logger.warning("preempted: starting again from the newest checkpoint in %s", job.output / "checkpoints")
    if outcome.error is not None:
        raise outcome.error


def fit(job: Job, loop: Callable[[Job], Any] = train_worker) -> Any:
    """Run Ray Train once; returns what `loop` does on rank 0. A CaspiError that a worker met is raised as itself."""
    import ray.train
    from ray.train.torch import TorchTrainer

    workers = job.recipe.training.workers
    trainer = TorchTrainer(
        functools.partial(loop, job),
        scaling_config=ray.train.ScalingConfig(
            num_workers=workers.num_workers,
            use_gpu=workers.use_gpu,
            resources_per_worker={"CPU": workers.cpus_per_worker} | ({"GPU": 1} if workers.use_gpu else {}),
            accelerator_type=workers.accelerator_type,
            elastic_resize_monitor_interval_s=workers.resize_every_s,
        ),
        run_config=ray.train.RunConfig(
            # A name that was used before would make Ray read what it left there.
            name=f"workers-{time.time_ns()}",
            storage_path=str(job.output / "ray"),
            failure_config=ray.train.FailureConfig(max_failures=workers.max_failures),
            worker_runtime_env={"env_vars": _GPU_ENVIRONMENT if workers.use_gpu else ONE_HEAP},
        ),
    )
    try:
        return trainer.fit().return_value
    except ray.train.TrainingFailedError as error:
        raise _explain(error) from error


def _explain(error: Exception) -> CaspiError:
    """The first cause in the workers."""
    failures = list(getattr(error, "worker_failures", {}).values())
    for failure in failures:
        cause = getattr(failure, "cause", failure)
        if isinstance(cause, CaspiError):
            return cause
        if isinstance(cause, OSError) and cause.errno in _STORAGE:
            return storage_error(cause)
    first = failures[0] if failures else error
    return TrainingError(f"training failed: {type(first).__name__}: {str(first).strip().splitlines()[-1]}")


def _publish(recipe: Recipe, output: Path, uri: str, result: TrainResult) -> None:
    """What MLflow keeps of a finished run besides its curves."""
    tracking.log_model_files(uri, result.run_id, result.model)
    if recipe.tracking.registered_name:
        tracking.register(uri, recipe.tracking.registered_name, result.run_id)
    tracking.finish_run(uri, result.run_id, status="FINISHED")


def _run_id(recipe: Recipe, corpus: Corpus, output: Path, uri: str, digest: str | None, *, resume: bool) -> str:
    record = output / "run.json"
    if resume:
        run_id = str(json.loads(record.read_text(encoding="utf-8"))["run_id"])
        tracking.resume_run(uri, run_id)
        return run_id
    run_id = tracking.start_run(recipe, corpus, uri=uri, name=recipe.name)
    values = {"run_id": run_id, "tracking_uri": uri, "corpus_fingerprint": corpus.fingerprint, "start_digest": digest}
    record.write_text(json.dumps(values, indent=1), encoding="utf-8")
    return run_id


def _summary(output: Path, run_id: str) -> TrainResult:
    lines = progress.read(output / progress.FILE_NAME)
    steps = [line for line in lines if line["event"] == "step"]
    wers = [line["eval/wer"] for line in lines if line["event"] == "validation"]
    speeds = sorted(line["train/rtfx"] for line in steps)
    return TrainResult(
        model=output / "model",
        run_id=run_id,
        loss_first=steps[0]["train/loss"],
        loss_last=steps[-1]["train/loss"],
        best_wer=min(wers, default=None),
        rtfx=speeds[len(speeds) // 2],
    )


@contextlib.contextmanager
def _measured_memory(folder: Path) -> Iterator[None]:
    """Bring to the workers what runs before have measured, and keep what they measure for the next run.

    In the run's folder, since that is what all machines see.
    """
    home = settings.read().home / "memory"
    if home.is_dir():
        shutil.copytree(home, folder, dirs_exist_ok=True)
    try:
        yield
    finally:
        if folder.is_dir():
            shutil.copytree(folder, home, dirs_exist_ok=True)


@contextlib.contextmanager
def _following(path: Path, on_progress: OnProgress | None) -> Iterator[None]:
    """Pass lines of progress on as they appear, from a thread of the driver."""
    if on_progress is None:
        yield
        return
    done = threading.Event()
    seen = len(progress.read(path))

    def follow() -> None:
        shown = seen
        while True:
            is_last_look = done.wait(0.5)
            lines = progress.read(path)
            # After a crash the file is cut back to the checkpoint, and the steps done again are shown again.
            shown = min(shown, len(lines))
            for line in lines[shown:]:
                on_progress(line)
            shown = len(lines)
            if is_last_look:
                return

    thread = threading.Thread(target=follow, name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
