"""What a whole training run loses to a fault, on synthetic Hebrew with the toy and two workers.

    python -m tests.benchmarks.run_faults recovery    # from kill -9 of a worker, or of all, to the next step
    python -m tests.benchmarks.run_faults tracker     # MLflow stopped for a minute in mid-run: step times, curves

Both write a small corpus first.
"""

import argparse
import os
import random
import signal
import statistics
import tempfile
import time
from collections import Counter
from pathlib import Path

import yaml

from caspi import ray_session, synthesis
from caspi.corpus import Corpus, prepare
from caspi.recipe import load_recipe
from caspi.tracking.client import client
from tests.tracking.faults import OwnServer
from tests.training.whole_runs import kill_whole, lines, start, steps, wait_for, workers


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("recovery", "tracker"))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=60.0, help="how long MLflow is away")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        os.environ["CASPI_HOME"] = str(folder / "home")
        os.environ.pop("MLFLOW_TRACKING_URI", None)
        recipe, corpus = make_corpus(folder)
        if arguments.what == "recovery":
            measure_recovery(folder, recipe, corpus, arguments.repeats)
        else:
            measure_tracker(folder, recipe, corpus, arguments.seconds)


def make_corpus(folder: Path) -> tuple[Path, Corpus]:
    """Some minutes of synthetic Hebrew, and a recipe that logs every step and judges seldom."""
    synthesis.synthesize(folder / "speech", num_utterances=120)
    values = {
        "data": {
            "sources": [{"kind": "hub_parquet", "path": "speech/crowd-transcribe-v5/data/train-*.parquet"}],
            "splits": {"validation": 0.05},
        },
        "training": {
            "epochs": 400,
            "batches": {"step_audio_s": 24},
            "log_every_steps": 1,
            "validation": {"every_steps": 100_000},
            "checkpoints": {"every_steps": 20},
        },
    }
    recipe = folder / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(values))
    with ray_session.connect():
        corpus = prepare(load_recipe(recipe), folder / "corpus")
    return recipe, corpus


def measure_recovery(folder: Path, recipe: Path, corpus: Corpus, repeats: int) -> None:
    output, moments = folder / "run", random.Random(3)
    took: dict[str, list[float]] = {"a worker": [], "everything, then --resume": []}
    process = start(recipe, corpus.path, output, folder / "home")
    for _ in range(repeats):
        for what, seconds in took.items():
            before = len(steps(output))
            wait_for(lambda before=before: len(steps(output)) >= before + 30, timeout_s=300)
            time.sleep(moments.uniform(0, 1))
            reached = steps(output)[-1]
            killed = time.monotonic()
            if what == "a worker":
                os.kill(workers(process.pid)[-1], signal.SIGKILL)
            else:
                kill_whole(process)
                process = start(recipe, corpus.path, output, folder / "home", "--resume")
            again = first_repeated_step(output, reached, since=time.time())
            seconds.append(again - killed)
    kill_whole(process)
    print("seconds from kill -9 to the end of the next step")
    for what, seconds in took.items():
        each = ", ".join(f"{one:.1f}" for one in seconds)
        print(f"  {what:<28} median {statistics.median(seconds):5.1f}   (of {each})")


def first_repeated_step(output: Path, reached: int, *, since: float) -> float:
    """When the run had done a step again: its file of progress is cut back to the checkpoint and grows again."""
    cut = wait_for(lambda: lines(output) and steps(output)[-1] < reached and steps(output)[-1], timeout_s=300)
    wait_for(lambda: steps(output)[-1] > cut, timeout_s=300)
    return time.monotonic()


def measure_tracker(folder: Path, recipe: Path, corpus: Corpus, seconds: float) -> None:
    output, around = folder / "run", 20.0
    with OwnServer() as server:
        os.environ["MLFLOW_TRACKING_URI"] = server.uri
        process = start(recipe, corpus.path, output, folder / "home", "--set", "training.epochs=100")
        wait_for(lambda: len(steps(output)) > 20, timeout_s=300)
        time.sleep(around)
        left = steps(output)[-1]
        server.stop()
        time.sleep(seconds)
        server.go_on()
        back = steps(output)[-1]
        said, _ = process.communicate(timeout=900)
        assert process.returncode == 0, said
        took = {line["step"]: line["train/step_s"] for line in lines(output)}
        with client(server.uri) as mlflow:
            (run,) = mlflow.search_runs(["1"])
            stored = Counter(point.step for point in mlflow.get_metric_history(run.info.run_id, "train/loss"))
    calm = [took[step] for step in took if 20 < step <= left]
    away = [took[step] for step in took if left < step <= back]
    print(f"MLflow stopped for {seconds:.0f} s; {len(away)} steps meanwhile, {len(calm)} before")
    for name, times in (("before", calm), ("meanwhile", away)):
        print(f"  step, s, {name:<10} median {statistics.median(times):.3f}   longest {max(times):.3f}")
    print(f"  points of train/loss: {len(took)} steps, {len(took.keys() - stored.keys())} missing, "
          f"{sum(count > 1 for count in stored.values())} doubled")  # fmt: skip


if __name__ == "__main__":
    main()
