"""What torch.compile gains on this machine: updates of the same model with and without it, by turns.

python -m tests.benchmarks.compiling
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import torch

from caspi.model import Batch, Loaded, build_toy, load
from caspi.recipe.sections import Optimizer, Toy
from caspi.training.compiling import compile_layers
from caspi.training.step import Objective, build_optimizer, train_step
from tests.training.one_step import NUM_UTTERANCES, WORDS, batches

SIZES = {
    "encoder_width": 256,
    "encoder_layers": 6,
    "decoder_width": 512,
    "decoder_heads": 8,
    "decoder_layers": 8,
    "conv_channels": 32,
}
CPU = torch.device("cpu")


class Trainee:
    """A model that is updated from the same batches again and again."""

    def __init__(self, folder: Path, precision: torch.dtype | None) -> None:
        self.loaded = load(folder)
        self.loaded.model.train()
        self.optimizer = build_optimizer(self.loaded.model, Optimizer(learning_rate=1e-4))
        self.objective = Objective(CPU, autocast=precision, max_grad_norm=1.0)
        self.losses: list[float] = []

    def round(self, work: list[Batch]) -> float:
        """Seconds of one update from each batch."""
        started = time.perf_counter()
        for batch in work:
            self.losses.append(train_step(self.loaded.model, self.optimizer, [batch], self.objective).loss)
        return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--bf16", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        toy = build_toy(Toy(**SIZES), texts=[" ".join(WORDS)] * 20, language="Hebrew", seed=1)
        Loaded.wrap(*toy).save(folder)
        eager, compiled = (Trainee(folder, torch.bfloat16 if args.bf16 else None) for _ in range(2))
    work = batches(eager.loaded, 0, 1, 8)
    num_weights = sum(weight.numel() for weight in eager.loaded.model.parameters())
    if problem := compile_layers(compiled.loaded.model, CPU):
        raise SystemExit(f"nothing to compare: {problem}")
    print(f"{num_weights / 1e6:.1f} M weights, {NUM_UTTERANCES} utterances in {len(work)} batches of other shapes")
    print(f"first round: eager {eager.round(work):.1f} s, compiled {compiled.round(work):.1f} s")
    seconds = [(eager.round(work), compiled.round(work)) for _ in range(args.rounds)]
    ours, theirs = (statistics.median(each) for each in zip(*seconds, strict=True))
    ratios = sorted(one / other for one, other in seconds)
    print(f"rounds: eager {ours:.2f} s, compiled {theirs:.2f} s (median of {args.rounds}); compiled is "
          f"{statistics.median(ratios):.2f} times as fast ({ratios[0]:.2f} to {ratios[-1]:.2f})")  # fmt: skip
    apart = max(abs(one - other) for one, other in zip(eager.losses, compiled.losses, strict=True))
    print(f"losses apart: at most {apart:.1e}")


if __name__ == "__main__":
    main()
