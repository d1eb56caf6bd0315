"""How long planning takes, in how much memory, how evenly ranks are loaded, and how much of a batch is padding.

    python tests/benchmarks/plan.py                              # a million utterances, and the table of ranks
    python tests/benchmarks/plan.py --joining 0.3                # with clips of up to two minutes among them
    python tests/benchmarks/plan.py --utterances 100000000       # by windows, lengths in memory-mapped files

Lengths are like those of crowd-transcribe: lognormal, 5.5 s on average, 0.5 to 30 s, with 22 tokens of prompt, 13 a
second of audio and about 5.5 a second of text. The code is the one that training runs.
"""

import argparse
import multiprocessing
import resource
import tempfile
import time
from pathlib import Path

import numpy as np

from caspi.recipe.augmentation import Joining
from caspi.training.lengths import LengthIndex
from caspi.training.plan import EpochPlan, plan_epoch

_UTTERANCES_PER_SHARD = 1300  # two hours
_UTTERANCES_PER_RECORDING = 65  # six minutes
_AT_ONCE = 1_000_000
_MICRO_BATCH_S = 60.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--utterances", type=int, default=1_000_000)
    parser.add_argument("--step-audio-s", type=float, default=1400.0)
    parser.add_argument("--steps", type=int, default=3920, help="how many steps to compose and deal")
    parser.add_argument("--joining", type=float, default=0.0, help="share of clips of neighbours")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="caspi-plan-") as folder:
        index = fake(args.utterances, Path(folder))
        print(f"{len(index):,} utterances, {index.shard_audio_s.sum() / 3600:,.0f} h, {len(index.shards):,} shards")
        before = own_mib()
        plan = planned(index, args.step_audio_s, Joining(share=args.joining), num_steps=args.steps)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
        print(
            f"memory {own_mib():,.0f} MiB, {before:,.0f} of it before planning; with mapped files {peak:,.0f} at most"
        )
        balance(plan)
        random_batches(index)


def planned(index: LengthIndex, step_audio_s: float, joining: Joining, *, num_steps: int) -> EpochPlan:
    """Plan an epoch, then compose and deal its first steps, each as one rank of eight would."""
    started = time.perf_counter()
    plan = plan_epoch(index, step_audio_s=step_audio_s, seed=1, epoch=0, joining=joining)
    print(
        f"{plan.num_steps:,} steps in {len(plan.windows):,} windows, known after {time.perf_counter() - started:.3f} s"
    )
    plan.utterances(0)
    print(f"first step after {time.perf_counter() - started:.3f} s")
    started = time.perf_counter()
    num_steps = min(num_steps, plan.num_steps)
    for step in range(num_steps):
        plan.micro_batches(step, rank=0, world_size=8, max_micro_batch_s=_MICRO_BATCH_S)
    seconds = time.perf_counter() - started
    print(f"{num_steps:,} steps composed and dealt in {seconds:.1f} s: {1000 * seconds / num_steps:.1f} ms each")
    return plan


def balance(plan: EpochPlan, num_steps: int = 400) -> None:
    """Print imbalance (the busiest rank over the mean, less one) and padding, over steps of the whole epoch."""
    print(
        "ranks  bound_s  imbalance_tokens  (worst)  imbalance_s  (worst)  padding_tokens  padding_s  batches_per_rank"
    )
    steps = np.unique(np.linspace(0, plan.num_steps - 1, num_steps).astype(int)).tolist()
    for world_size in (1, 2, 8, 64):
        for bound_s in (60.0, 240.0):
            work = np.array(
                [[measure(plan, step, rank, world_size, bound_s) for rank in range(world_size)] for step in steps]
            )
            padded, real, num_batches = work[..., :2], work[..., 2:4].sum((0, 1)), work[..., 4].mean()
            imbalance = padded.max(1) / padded.mean(1) - 1  # (steps, 2)
            padding = 1 - real / padded.sum((0, 1))
            mean, worst = imbalance.mean(0), imbalance.max(0)
            print(
                f"{world_size:5} {bound_s:8.0f} {mean[0]:17.1%} {worst[0]:8.1%} {mean[1]:12.1%} {worst[1]:8.1%} "
                f"{padding[0]:15.1%} {padding[1]:10.1%} {num_batches:17.1f}",
                flush=True,
            )


def measure(plan: EpochPlan, step: int, rank: int, world_size: int, bound_s: float) -> np.ndarray:
    """Padded tokens and seconds, real tokens and seconds, and micro-batches of one rank."""
    total = np.zeros(5)
    for batch in plan.micro_batches(step, rank=rank, world_size=world_size, max_micro_batch_s=bound_s):
        seconds, tokens = plan.lengths(batch)
        total += (len(batch) * tokens.max(), len(batch) * seconds.max(), tokens.sum(), seconds.sum(), 1)
    return total


def random_batches(index: LengthIndex, num_utterances: int = 2**17) -> None:
    """Print the padding of batches of a fixed size in random order, for comparison."""
    order = np.random.default_rng(0).permutation(len(index))[:num_utterances]
    for size in (2, 4, 8, 16, 32):
        chosen = order[: len(order) // size * size].reshape(-1, size)
        shares = [
            1 - each[chosen].sum() / (size * each[chosen].max(1).sum())
            for each in (index.num_tokens, index.durations_s)
        ]
        print(f"random batches of {size}: padding_tokens {shares[0]:.1%}  padding_s {shares[1]:.1%}")


def write(num_utterances: int, folder: Path) -> None:
    """Lengths and totals as files."""
    columns = {
        name: np.lib.format.open_memmap(folder / f"{name}.npy", "w+", dtype, (num_utterances,))
        for name, dtype in (
            ("durations_s", np.float32),
            ("num_tokens", np.int32),
            ("source_codes", np.uint16),
            ("gaps_s", np.float32),
            ("following_tokens", np.int32),
        )
    }
    random = np.random.default_rng(0)
    for start in range(0, num_utterances, _AT_ONCE):
        here = slice(start, min(start + _AT_ONCE, num_utterances))
        durations_s = np.clip(random.lognormal(np.log(5.5) - 0.7**2 / 2, 0.7, here.stop - start), 0.5, 30)
        columns["durations_s"][here] = durations_s
        text_tokens = 5.5 * durations_s * random.lognormal(0, 0.25, len(durations_s))
        columns["num_tokens"][here] = 22 + 13 * durations_s + text_tokens
        columns["following_tokens"][here] = text_tokens
        columns["gaps_s"][here] = np.where(np.arange(here.start, here.stop) % _UTTERANCES_PER_RECORDING, 0.5, np.nan)
    starts = np.append(np.arange(0, num_utterances, _UTTERANCES_PER_SHARD), num_utterances)
    np.save(folder / "shard_utterances.npy", np.diff(starts)[:, None])
    audio_s = np.add.reduceat(columns["durations_s"], starts[:-1], dtype=np.float64)
    np.save(folder / "shard_audio_s.npy", audio_s[:, None])


def fake(num_utterances: int, folder: Path) -> LengthIndex:
    """An index in memory-mapped files, as `LengthIndex.open` gives it; made by another process, whose memory it is."""
    writer = multiprocessing.get_context("spawn").Process(target=write, args=(num_utterances, folder))
    writer.start()
    writer.join()
    columns = {path.stem: np.load(path, mmap_mode="r") for path in folder.glob("*.npy")}
    num_shards = len(columns["shard_audio_s"])
    return LengthIndex(
        shards=tuple(f"train/shard-{number:05d}.parquet" for number in range(num_shards)),
        sources=("speech",),
        **columns,
    )


def own_mib() -> float:
    """Memory of this process that is not pages of files, which the system takes back when it needs them."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("Anonymous:")).split()[1]) / 2**10


if __name__ == "__main__":
    main()
