"""How fast training is beside transformers' Trainer, on one machine, with the same model, utterances and step size.

    python -m tests.benchmarks.train --tokenizer FOLDER             # all three ways, by turns
    python -m tests.benchmarks.train --folder WORK --search         # which grouping and batch size suit Trainer best
    python -m tests.benchmarks.train --folder WORK --memory 60 240  # peak memory of one micro-batch of so many seconds

The ways: `caspi` is the plan, the feed and the step of `caspi train`, with its default micro-batches; `trainer` is
Trainer with random batches of 2, accumulated 16 times; `trainer, grouped` is Trainer with the sampling and the batch
size that --search found best. All have exact labels, 32 utterances a step and two threads. Ratios are within one turn.
FOLDER holds the released tokenizer. Trainer needs `pip install accelerate`, which Caspi does without.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tests.benchmarks import training_material

_CASPI = {"kind": "caspi"}
_RANDOM = {"kind": "trainer", "sampling": "random", "batch_size": 2}
_GROUPED = {"kind": "trainer", "sampling": "batch_rebalance", "batch_size": 8}
_BATCH_SIZES = (4, 8, 16, 32)
_SEARCHED_UTTERANCES = 32


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="where corpus and model are kept; default: a temporary folder")
    parser.add_argument("--tokenizer", type=Path, help="a folder with the released tokenizer; default: one is learnt")
    parser.add_argument("--utterances", type=int, default=96)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--search", action="store_true", help="try samplings and batch sizes of Trainer, and end")
    parser.add_argument("--memory", type=float, nargs="+", metavar="SECONDS", help="measure peak memory, and end")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder or Path(temporary)
        training_material.make(folder, num_utterances=args.utterances, tokenizer=args.tokenizer)
        if args.memory:
            compare_memory(folder, args.memory)
        elif args.search:
            search(folder)
        else:
            compare(folder, args.turns)


def compare(folder: Path, num_turns: int) -> None:
    """Every way once a turn, each turn beginning with another one."""
    found = folder / "grouped.json"
    ways = {
        "caspi": _CASPI,
        "trainer": _RANDOM,
        "trainer, grouped": json.loads(found.read_text()) if found.exists() else _GROUPED,
    }
    print(f"grouped: {ways['trainer, grouped']}")
    names = list(ways)
    ratios: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(num_turns):
        order = names[turn % len(names) :] + names[: turn % len(names)]
        measured = {name: run(folder, ways[name]) for name in order}
        table((name, measured[name]) for name in names)
        for name in names:
            ratios[name].append(speed(measured["caspi"]) / speed(measured[name]))
    for name in names[1:]:
        each = ", ".join(f"{ratio:.2f}" for ratio in ratios[name])
        print(f"caspi / {name}: median {statistics.median(ratios[name]):.2f} of {each}")


def search(folder: Path) -> None:
    """Try Trainer's samplings that look at lengths, on a part of the corpus, and write down which was fastest."""
    ways = [
        {"kind": "trainer", "sampling": sampling, "batch_size": size}
        for sampling in ("group_by_length", "batch_rebalance")
        for size in _BATCH_SIZES
    ]
    measured = [run(folder, way | {"num_utterances": _SEARCHED_UTTERANCES}) for way in ways]
    table((f"{way['sampling']} {way['batch_size']}", each) for way, each in zip(ways, measured, strict=True))
    best = max(range(len(ways)), key=lambda place: speed(measured[place]))
    (folder / "grouped.json").write_text(json.dumps(ways[best]))
    print(f"best: {ways[best]}")


def compare_memory(folder: Path, sizes_s: Iterable[float]) -> None:
    """One micro-batch forward, backward and into the weights, with Caspi's loss and with transformers' own."""
    print("micro_batch_s  logits   tokens  supervised  peak_mib  of_which_before")
    for size_s in sizes_s:
        peaks = {}
        for logits in ("few", "full"):
            measured = _call("tests.benchmarks.training_memory", str(folder), str(size_s), logits)
            peaks[logits] = measured["peak_bytes"]
            print(
                f"{measured['padded_s']:13.0f}  {logits:>6} {measured['num_tokens']:8} {measured['num_supervised']:11} "
                f"{measured['peak_bytes'] / 2**20:9.0f} {measured['before_bytes'] / 2**20:16.0f}",
                flush=True,
            )
        print(f"few / full: {peaks['few'] / peaks['full']:.2f}")


def run(folder: Path, way: Mapping[str, Any]) -> dict[str, float]:
    """One way in a process of its own, so that its peak memory is its own."""
    return _call("tests.benchmarks.training_ways", str(folder), json.dumps(way))


def _call(module: str, *arguments: str) -> dict[str, Any]:
    done = subprocess.run([sys.executable, "-m", module, *arguments], stdout=subprocess.PIPE, text=True, check=True)
    measured: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return measured


def speed(measured: Mapping[str, float]) -> float:
    """Utterances per second."""
    return measured["num_utterances"] / measured["seconds"]


def table(rows: Iterable[tuple[str, Mapping[str, float]]]) -> None:
    print(
        f"{'way':>20}  utterances/s  audio_s/s  steps  batches  padding_tokens  padding_s  peak_mib  loss_after",
        flush=True,
    )
    for name, each in rows:
        print(
            f"{name:>20} {speed(each):13.2f} {each['audio_s'] / each['seconds']:10.1f} {each['num_steps']:6} "
            f"{each['num_batches']:8} {1 - each['num_real_tokens'] / each['num_tokens']:15.1%} "
            f"{1 - each['audio_s'] / each['padded_s']:10.1%} {each['peak_bytes'] / 2**20:9.0f} {each['loss']:11.3f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
