"""Packed against bucketed on this machine: the same steps, in turn, and the ratio of their times.

    python tests/benchmarks/collations.py                  # the toy on the CPU
    python tests/benchmarks/collations.py --device cuda --model Qwen/Qwen3-ASR-1.7B-hf --step-audio-s 480 \\
        --max-micro-batch-s 240

Clips have the lengths of crowd-transcribe (lognormal, 5.5 s on average). A ratio below 1: packed is faster. Seconds
on a CPU are those that this process had of it, so that other work beside it counts little.
"""

import argparse
import statistics
import time

import numpy as np
import torch

from caspi.audio import SAMPLE_RATE
from caspi.model import Batch, Loaded, Prompter, build_toy, collate, load, num_audio_tokens
from caspi.recipe.sections import Collation, Optimizer, Toy
from caspi.training.lengths import LengthIndex
from caspi.training.plan import EpochPlan, plan_epoch
from caspi.training.step import Objective, autocast_type, build_optimizer, train_step

_WORDS = ["שלום", "ילד", "הולך", "הביתה", "עכשיו", "גדולה", "ים", "עיר", "הכנסת", "ישיבה"]
_COLLATIONS: tuple[Collation, ...] = ("packed", "bucketed")
_WARM_UP = 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="default: the toy")
    parser.add_argument("--width", type=int, default=128, help="of the toy")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--step-audio-s", type=float, default=48.0)
    parser.add_argument("--max-micro-batch-s", type=float, default=60.0)
    parser.add_argument("--steps", type=int, default=20)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    device = torch.device(args.device)
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    loaded = load(args.model) if args.model else toy(args.width)
    loaded.model.to(device).train()
    optimizer = build_optimizer(loaded.model, Optimizer(learning_rate=1e-12))
    objective = Objective(device, autocast_type("auto", device), max_grad_norm=1.0)
    random = np.random.default_rng(0)
    durations_s = np.clip(random.lognormal(np.log(5.5) - 0.5**2 / 2, 0.5, 5000), 0.5, 30)
    plan = plan_epoch(LengthIndex.of(durations_s, [500] * 10), step_audio_s=args.step_audio_s, seed=0, epoch=0)
    seconds: dict[Collation, list[float]] = {collation: [] for collation in _COLLATIONS}
    difference = 0.0
    for step in range(_WARM_UP + args.steps):
        losses = []
        for collation in _COLLATIONS if step % 2 else _COLLATIONS[::-1]:
            batches = made(plan, step, loaded.prompter, collation, args.max_micro_batch_s)
            started = clock()
            losses.append(train_step(loaded.model, optimizer, batches, objective).loss)  # waits for the device
            seconds[collation].append(clock() - started)
        difference = max(difference, abs(losses[0] - losses[1]))
    packed, bucketed = (seconds[collation][_WARM_UP:] for collation in _COLLATIONS)
    ratios = [one / other for one, other in zip(packed, bucketed, strict=True)]
    print(f"packed {statistics.median(packed):.4f} s a step, bucketed {statistics.median(bucketed):.4f} s (medians)")
    print(f"ratio {statistics.median(ratios):.3f} (median of {len(ratios)} pairs); losses differ by {difference:.1e}")


def toy(width: int) -> Loaded:
    sizes = Toy(encoder_width=width, decoder_width=width)
    return Loaded.wrap(*build_toy(sizes, texts=[" ".join(_WORDS)] * 20, language="Hebrew", seed=0))


def made(plan: EpochPlan, step: int, prompter: Prompter, collation: Collation, max_micro_batch_s: float) -> list[Batch]:
    """The micro-batches of a step: noise with texts of two words a second."""
    random = np.random.default_rng(step)
    sounds = {
        item: random.standard_normal(int(plan.index.durations_s[item] * SAMPLE_RATE)).astype(np.float32)
        for item in plan.utterances(step).tolist()
    }
    examples = {
        item: prompter.example(
            " ".join(random.choice(_WORDS, 1 + 2 * len(sound) // SAMPLE_RATE)),
            num_audio_tokens=num_audio_tokens(len(sound)),
            language="Hebrew",
        )
        for item, sound in sounds.items()
    }
    groups = plan.micro_batches(step, rank=0, world_size=1, max_micro_batch_s=max_micro_batch_s, collation=collation)
    return [
        collate(
            [examples[item] for item in group.tolist()],
            [sounds[item] for item in group.tolist()],
            pad_id=prompter.pad_id,
            collation=collation,
        )
        for group in groups
    ]


if __name__ == "__main__":
    main()
