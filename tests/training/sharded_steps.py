"""Three updates as one of several processes, which share out the layers. Started by test_sharding.py.

python -m tests.training.sharded_steps MODEL OUTPUT SHARDING CHECKPOINT

Micro-batches differ in number from rank to rank. CHECKPOINT: go on from there; empty: from MODEL.
"""

import dataclasses
import json
import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist

from caspi.model import loss_sums
from caspi.training import checkpoint
from caspi.training.ema import kept
from caspi.training.sharding import gathered
from tests.training.learner import Learner
from tests.training.one_step import batches

SETTINGS = {
    "ema": {"decay": 0.9},
    "gradient_checkpointing": {"decoder": [0, 1]},
    "optimizer": {"learning_rate": 5e-4, "max_grad_norm": 0.5, "rates": {"layer_decay": 0.8}},
    "frozen": ["projector"],
}


def main(model: str, output: str, sharding: str, restored: str) -> None:
    torch.set_num_threads(1)
    rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    dist.init_process_group(
        "gloo", store=dist.FileStore(os.environ["STORE"], world_size), rank=rank, world_size=world_size
    )
    learner = Learner(Path(model), SETTINGS | {"sharding": sharding}, share=rank)
    if restored:
        learner.restore(Path(restored))
    results = []
    for number in range(3):
        # Eight utterances of each step for each of two ranks; one computes them in two passes, the other in four.
        mine = batches(learner.loaded, rank=number * 2 + rank, world_size=8, per_batch=4 if rank == 0 else 2)
        idle = [mine[0]] * (4 - len(mine)) if sharding == "full" else []
        results.append(learner.update(mine, idle=idle))
    saved = learner.save(Path(output) / f"rank-{rank}", is_kept=rank == 0)
    with kept(learner.model, learner.ema), gathered(learner.model), torch.no_grad():
        # Each rank by itself, and only as often as it likes.
        losses = [loss_sums(learner.model, batch).cross_entropy.item() for batch in mine]
    if rank == 0:
        assert checkpoint.damage(saved) is None
        values = {
            "steps": [dataclasses.asdict(result) for result in results],
            "judged": sum(losses),
            "path": str(saved),
        }
        (Path(output) / "result.json").write_text(json.dumps(values))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
