"""An update as one of several processes, for each collation and size of micro-batches. Started by test_layout.py.

python -m tests.training.one_step MODEL OUTPUT SIZE...
"""

import dataclasses
import itertools
import json
import os
import sys
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist

from caspi.model import Batch, Loaded, build_toy, collate, load, num_audio_tokens
from caspi.recipe.sections import Collation, Optimizer, Toy
from caspi.training.step import Objective, build_optimizer, train_step

NUM_UTTERANCES = 64
COLLATIONS: tuple[Collation, ...] = ("packed", "bucketed")
WORDS = ["שלום", "ילד", "הולך", "הביתה", "עכשיו", "כן", "לא", "גדולה", "ים", "עיר"]


def make_model(folder: Path) -> None:
    sizes = Toy(
        encoder_width=32, encoder_layers=2, encoder_heads=2, decoder_width=32, decoder_layers=2, decoder_heads=2
    )
    Loaded.wrap(*build_toy(sizes, texts=[" ".join(WORDS)] * 20, language="Hebrew", seed=1)).save(folder)


def utterances() -> list[tuple[str, np.ndarray]]:
    """Texts, and clips of half a second to six, with the lengths of real speech."""
    random = np.random.default_rng(3)
    lengths_s = np.clip(random.lognormal(0.6, 0.6, NUM_UTTERANCES), 0.5, 6)
    return [
        (
            " ".join(random.choice(WORDS, random.integers(1, 8))),
            (random.standard_normal(int(16000 * length_s)) * 0.1).astype(np.float32),
        )
        for length_s in lengths_s
    ]


def batches(
    loaded: Loaded, rank: int, world_size: int, per_batch: int, collation: Collation = "bucketed"
) -> list[Batch]:
    mine = utterances()[rank::world_size]
    return [
        collate(
            [
                loaded.prompter.example(text, num_audio_tokens=num_audio_tokens(len(clip)), language="Hebrew")
                for text, clip in group
            ],
            [clip for _, clip in group],
            pad_id=loaded.prompter.pad_id,
            collation=collation,
        )
        for group in (mine[start : start + per_batch] for start in range(0, len(mine), per_batch))
    ]


def main(model: str, output: str, *sizes: str) -> None:
    torch.set_num_threads(1)
    rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    store = dist.FileStore(os.environ["STORE"], world_size)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world_size)
    for collation, size in itertools.product(COLLATIONS, map(int, sizes)):
        loaded = load(model)
        loaded.model.train()
        optimizer = build_optimizer(loaded.model, Optimizer(learning_rate=5e-4))
        objective = Objective(torch.device("cpu"), autocast=None, max_grad_norm=1.0)
        mine = batches(loaded, rank, world_size, size, collation)
        result = train_step(loaded.model, optimizer, mine, objective)
        if rank == 0:
            (Path(output) / f"{collation}-{size}.json").write_text(json.dumps(dataclasses.asdict(result)))
            torch.save(dict(loaded.model.named_parameters()), Path(output) / f"{collation}-{size}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
