"""Starting a training run on the cluster: model, MLflow run, TorchTrainer, and what is left behind.

RUN/
  run.json        the MLflow run, and what is needed to resume
  recipe.yaml     the resolved recipe
  start/          the model that training starts from, where it is made here
  lengths/        the length index that the plan is made from
  model/          the best model so far, by WER on the validation split
  ray/            Ray Train's storage: checkpoints
  progress.jsonl  what the console shows
"""

import contextlib
import functools
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from caspi import ray_session, settings, tracking
from caspi.corpus import Corpus
from caspi.errors import CaspiError, RequestError, RunError, TrackingError, TrainingError
from caspi.model import load_prompter
from caspi.recipe import Recipe, show
from caspi.recipe.sections import Workers
from caspi.text import language_name
from caspi.training import progress
from caspi.training.lengths import LengthIndex
from caspi.training.loop import Job, train_loop
from caspi.training.plan import plan_run

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
) -> TrainResult:
    """Fine-tune `recipe.model` on a prepared corpus; the best model is at `output/model`.

    Args:
        resume: go on with the run that `output` holds. Without it a folder that holds a run is refused.
        on_progress: called with each line of progress.jsonl as it is written.

    Raises:
        RequestError: the corpus, model or output folder is not what it must be; nothing was started.
        TrainingError: training failed more often than `training.workers.max_failures` allows.
    """
    output, opened = Path(output).absolute(), Corpus.open(corpus)
    opened.index("train")
    check_output(output, resume=resume)
    with ray_session.connect(), tracking.server() as uri:
        _check_resources(recipe.training.workers)
        output.mkdir(parents=True, exist_ok=True)
        start = start_model(recipe, opened, output)
        lengths = output / "lengths"
        # Planned here only to refuse, before anything is started, a mixture that does not fit the corpus.
        plan_run(LengthIndex.build(opened, load_prompter(start), lengths), recipe.training)
        run_id = _run_id(recipe, opened, output, uri, resume=resume)
        (output / "recipe.yaml").write_text(show(recipe), encoding="utf-8")
        job = Job(recipe, opened.path, start, lengths, output, uri, run_id)
        try:
            with _following(output / progress.FILE_NAME, on_progress):
                _fit(job)
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


def check_output(output: Path, *, resume: bool) -> None:
    """Refuse to mix two runs in one folder.

    Raises:
        RunError: the folder holds a run and `resume` was not asked for, or the reverse.
    """
    holds_run = (output / "run.json").exists()
    if holds_run and not resume:
        raise RunError(f"{output}: holds a run already; give another --output, or --resume to go on with it")
    if resume and not holds_run:
        raise RunError(f"{output}: holds no run to resume")


def _check_resources(workers: Workers) -> None:
    """Refuse at once what a Ray of this machine alone can never give. A cluster may grow, so there Ray waits.

    Raises:
        RequestError: the recipe asks for more CPUs or GPUs than there are.
    """
    import ray

    if settings.read().ray_address:
        return
    needed = {"CPU": workers.num_workers * workers.cpus_per_worker, "GPU": workers.num_workers * workers.use_gpu}
    for kind, amount in needed.items():
        if amount > (there := ray.cluster_resources().get(kind, 0)):
            raise RequestError(
                f"training.workers asks for {amount:g} {kind}s, and this machine's Ray has {there:g}; "
                "change training.workers, or run it on a cluster with `caspi submit train_model`"
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


def _fit(job: Job) -> None:
    """Run Ray Train to its end. A CaspiError that a worker met is raised as itself."""
    import ray.train
    from ray.train.torch import TorchTrainer

    training = job.recipe.training
    workers = training.workers
    trainer = TorchTrainer(
        functools.partial(train_loop, job),
        scaling_config=ray.train.ScalingConfig(
            num_workers=workers.num_workers,
            use_gpu=workers.use_gpu,
            resources_per_worker={"CPU": workers.cpus_per_worker} | ({"GPU": 1} if workers.use_gpu else {}),
            accelerator_type=workers.accelerator_type,
        ),
        run_config=ray.train.RunConfig(
            name="train",
            storage_path=str(job.output / "ray"),
            failure_config=ray.train.FailureConfig(max_failures=workers.max_failures),
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=training.checkpoints.num_to_keep),
        ),
    )
    try:
        trainer.fit()
    except ray.train.TrainingFailedError as error:
        raise _explain(error) from error


def _explain(error: Exception) -> CaspiError:
    """The first cause in the workers."""
    failures = list(getattr(error, "worker_failures", {}).values())
    for failure in failures:
        cause = getattr(failure, "cause", failure)
        if isinstance(cause, CaspiError):
            return cause
    first = failures[0] if failures else error
    return TrainingError(f"training failed: {type(first).__name__}: {str(first).strip().splitlines()[-1]}")


def _publish(recipe: Recipe, output: Path, uri: str, result: TrainResult) -> None:
    """What MLflow keeps of a finished run besides its curves."""
    tracking.log_model_files(uri, result.run_id, result.model)
    _record_checkpoints(output, uri, result.run_id)
    if recipe.tracking.registered_name:
        tracking.register(uri, recipe.tracking.registered_name, result.run_id)
    tracking.finish_run(uri, result.run_id, status="FINISHED")


def _record_checkpoints(output: Path, uri: str, run_id: str) -> None:
    """Tell MLflow which checkpoints there are; their files stay where they are."""
    for folder in sorted((output / "ray" / "train").glob("checkpoint-*")):
        cursor = json.loads((folder / "cursor.json").read_text(encoding="utf-8"))
        metrics = {"eval/wer": cursor["best_wer"]} if cursor["best_wer"] is not None else {}
        tracking.record_checkpoint(uri, run_id, step=cursor["step"], path=folder, metrics=metrics)


def _run_id(recipe: Recipe, corpus: Corpus, output: Path, uri: str, *, resume: bool) -> str:
    record = output / "run.json"
    if resume:
        run_id = str(json.loads(record.read_text(encoding="utf-8"))["run_id"])
        tracking.resume_run(uri, run_id)
        return run_id
    run_id = tracking.start_run(recipe, corpus, uri=uri, name=recipe.name)
    record.write_text(json.dumps({"run_id": run_id, "tracking_uri": uri}, indent=1), encoding="utf-8")
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
