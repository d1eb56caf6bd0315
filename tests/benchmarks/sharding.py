"""What sharing the layers out over two workers saves and costs on this machine: the same updates with and without it.

python -m tests.benchmarks.sharding

Two processes of one thread each, gloo between them, a fresh pair for each turn. Memory is what weights and moments take
between updates, and the kernel's peak of a process, beyond what it held before the model was there.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
import torch.distributed as dist

from caspi.allocation import ONE_HEAP
from caspi.model import Loaded, build_toy
from caspi.recipe.sections import Toy
from caspi.training.sharding import share_of
from tests.benchmarks.compiling import SIZES
from tests.benchmarks.training_measures import Memory
from tests.training.learner import Learner
from tests.training.one_step import WORDS, batches

WAYS = ("none", "full")
NUM_WORKERS = 2
LARGER = SIZES | {"decoder_width": 768, "decoder_heads": 12, "decoder_layers": 12}


def work(model: str, sharding: str, num_updates: str) -> None:
    """One worker's updates; the first process tells its figures."""
    torch.set_num_threads(1)
    rank = int(os.environ["RANK"])
    dist.init_process_group(
        "gloo", store=dist.FileStore(os.environ["STORE"], NUM_WORKERS), rank=rank, world_size=NUM_WORKERS
    )
    seconds, losses = [], []
    memory = Memory(torch.device("cpu"))
    memory.restart()
    before = memory.peak_bytes()
    learner = Learner(Path(model), {"sharding": sharding}, share=rank)
    learner.start = {}  # a test's copy of all weights, which no run has
    mine = batches(learner.loaded, rank=rank, world_size=8, per_batch=4)
    for _ in range(int(num_updates)):
        started = time.perf_counter()
        losses.append(learner.update(mine).loss)
        seconds.append(time.perf_counter() - started)
    peak = memory.peak_bytes() - before
    moments = [value for state in learner.optimizer.state.values() for value in state.values()]
    held = sum(share_of(tensor).nbytes for tensor in (*learner.model.parameters(), *moments))
    print(json.dumps({"seconds": statistics.median(seconds[1:]), "peak": peak, "held": held, "losses": losses}))
    dist.destroy_process_group()


def measure(folder: Path, model: Path, sharding: str, num_updates: int) -> dict[str, float]:
    """The slower worker's median update, and the larger peak."""
    environment = os.environ | ONE_HEAP | {"STORE": str(folder / f"store-{time.time_ns()}"), "OMP_NUM_THREADS": "1"}
    words = [sys.executable, "-m", "tests.benchmarks.sharding", "--worker", str(model), sharding, str(num_updates)]
    workers = [
        subprocess.Popen(words, env=environment | {"RANK": str(rank)}, stdout=subprocess.PIPE, text=True)
        for rank in range(NUM_WORKERS)
    ]
    told = [json.loads(worker.communicate(timeout=600)[0].splitlines()[-1]) for worker in workers]
    return {
        "seconds": max(each["seconds"] for each in told),
        "peak": max(each["peak"] for each in told),
        "held": max(each["held"] for each in told),
        "loss": told[0]["losses"][-1],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--updates", type=int, default=6)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        toy = build_toy(Toy(**LARGER), texts=[" ".join(WORDS)] * 20, language="Hebrew", seed=1)
        print(f"{sum(weight.numel() for weight in toy[0].parameters()) / 1e6:.1f} M weights, {NUM_WORKERS} workers")
        Loaded.wrap(*toy).save(folder / "model")
        turns = [{way: measure(folder, folder / "model", way, args.updates) for way in WAYS} for _ in range(args.turns)]
    for way in WAYS:
        seconds, peak, held = (
            statistics.median(turn[way][each] for turn in turns) for each in ("seconds", "peak", "held")
        )
        print(
            f"sharding {way}: {seconds:.2f} s an update; {held / 2**20:,.0f} MiB of weights and moments a worker, "
            f"{peak / 2**20:,.0f} MiB at most"
        )
    slower = statistics.median(turn["full"]["seconds"] / turn["none"]["seconds"] for turn in turns)
    smaller = statistics.median(turn["full"]["peak"] / turn["none"]["peak"] for turn in turns)
    apart = max(abs(turn["full"]["loss"] - turn["none"]["loss"]) for turn in turns)
    print(f"full: {slower:.2f} of the time, {smaller:.2f} of the memory; losses apart: at most {apart:.1e}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        work(*sys.argv[2:])
    else:
        main()
