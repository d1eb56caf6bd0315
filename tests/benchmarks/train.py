"""How fast training is beside transformers' Trainer, on one machine, with the same model, utterances and step size.

    python -m tests.benchmarks.train --folder WORK --tokenizer FOLDER   # all three ways, by turns
    python -m tests.benchmarks.train --folder WORK --search             # the sampling and size that suit Trainer best
    python -m tests.benchmarks.train --folder WORK --memory 60 240      # peak memory of micro-batches of some seconds
    python -m tests.benchmarks.train --folder WORK --variants           # ways to train more cheaply, each beside `full`
    python -m tests.benchmarks.train --folder WORK --budgets 30 60 120 --plot FILE.svg

The ways: `caspi` is the plan, the feed and the step of `caspi train`, with its default micro-batches; `trainer` is
Trainer with random batches of 2, accumulated 16 times; `trainer, grouped` is Trainer with the sampling and the batch
size that --search found best. All have exact labels and 32 utterances a step. Each runs in a process of its own.
Ratios are within one turn, and every call adds its turns to those of earlier ones in WORK. On a machine that does
other work too, take `--threads 1` and believe the CPU seconds.

On a GPU: `--size 1.7B --device cuda --precision bf16 --utterances 2000 --max-micro-batch-s 240`. WORK belongs to one
size and one number of utterances. --tokenizer names a folder with the released tokenizer.
"""

import argparse
import dataclasses
import json
import statistics
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.benchmarks import training_material
from tests.benchmarks.training_measures import Measured, Way, ask

_BATCH_SIZES = (2, 4, 8, 16)
_SEARCHED_UTTERANCES = 32


def main() -> None:
    args = _arguments()
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder or Path(temporary)
        training_material.make(folder, num_utterances=args.utterances, size=args.size, tokenizer=args.tokenizer)
        bench = Bench(folder, args)
        if args.memory:
            bench.compare_memory(args.memory)
        elif args.budgets:
            bench.compare_budgets(args.budgets, args.plot)
        elif args.variants is not None:
            bench.compare_variants(args.variants)
        elif args.search:
            bench.search()
        else:
            bench.compare(args.turns)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="where corpus and model are kept; default: a temporary folder")
    parser.add_argument("--tokenizer", type=Path, help="a folder with the released tokenizer; default: one is learnt")
    parser.add_argument("--size", choices=training_material.SIZES, default="47M")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--precision", default="fp32", choices=("fp32", "bf16"), help="of all ways")
    parser.add_argument("--threads", type=int, default=2, help="of a CPU")
    parser.add_argument("--max-micro-batch-s", type=float, help="of Caspi; default: as in every recipe")
    parser.add_argument("--utterances", type=int, default=96)
    parser.add_argument("--turns", type=int, default=1)
    parser.add_argument("--steps", type=int, help="of --variants and --budgets: the first ones; default: all")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--search", action="store_true", help="try samplings and batch sizes of Trainer")
    what.add_argument("--memory", type=float, nargs="+", metavar="SECONDS", help="measure peak memory")
    what.add_argument("--budgets", type=float, nargs="+", metavar="SECONDS", help="try bounds of micro-batches")
    what.add_argument("--variants", nargs="*", metavar="NAME", help="ways to train more cheaply; default: all")
    parser.add_argument("--plot", type=Path, help="of --budgets: a picture, .svg or .png")
    return parser.parse_args()


def variants(folder: Path) -> dict[str, Mapping[str, Any]]:
    """What a recipe says of training beside its defaults, for each way to train more cheaply."""
    config = _read(folder / "model" / "config.json", None)
    num_layers = {
        "encoder": config["audio_config"]["encoder_layers"],
        "decoder": config["text_config"]["num_hidden_layers"],
    }
    return {
        "full": {},
        "bucketed": {"batches": {"collation": "bucketed"}},
        "checkpointing, all": {"gradient_checkpointing": True},
        "checkpointing, half": {"gradient_checkpointing": {part: [0, n // 2] for part, n in num_layers.items()}},
        "lora": {"lora": {}},
        "frozen encoder": {"frozen": ["encoder"]},
        "ema": {"ema": {}},
        "8-bit states": {"optimizer": {"states": "8bit"}},
    }


class Bench:
    """The ways on one folder, device and precision."""

    def __init__(self, folder: Path, args: argparse.Namespace) -> None:
        self._folder = folder
        bounds = {} if args.max_micro_batch_s is None else {"max_micro_batch_s": args.max_micro_batch_s}
        self._caspi = Way("caspi", args.device, args.precision, args.threads, training={"batches": bounds})
        # A GPU waits for batches that are made between its steps; a CPU has to make them itself anyway.
        readers = 4 if args.device == "cuda" else 0
        self._trainer = Way("trainer", args.device, args.precision, args.threads, num_readers=readers)
        self._num_steps = args.steps

    def compare(self, num_turns: int) -> None:
        """Every way once a turn, each turn beginning with another one."""
        ways = {"caspi": self._caspi, "trainer": self._trainer, "trainer, grouped": self._grouped()}
        for name, way in ways.items():
            print(f"{name}: {way}")
        names, turns = list(ways), _read(self._folder / "turns.json", [])
        header()
        for _ in range(num_turns):
            first = len(turns) % len(names)
            measured = {name: self._run(name, ways[name]) for name in names[first:] + names[:first]}
            turns.append({name: [each.speed, each.cpu_speed] for name, each in measured.items()})
            (self._folder / "turns.json").write_text(json.dumps(turns), encoding="utf-8")
        for name in names[1:]:
            for place, unit in enumerate(("second", "CPU second")):
                ratios = [turn["caspi"][place] / turn[name][place] for turn in turns]
                each = ", ".join(f"{ratio:.2f}" for ratio in ratios)
                print(f"caspi / {name}, utterances per {unit}: median {statistics.median(ratios):.2f} of {each}")

    def search(self) -> None:
        """Try Trainer's samplings that look at lengths, on a part of the corpus, and write down which was fastest."""
        ways = {
            f"{sampling} {size}": dataclasses.replace(
                self._trainer, sampling=sampling, batch_size=size, num_utterances=_SEARCHED_UTTERANCES
            )
            for sampling in ("group_by_length", "batch_rebalance")
            for size in _BATCH_SIZES
        }
        header()
        measured = {name: self._run(name, way) for name, way in ways.items()}
        on_cpu = self._trainer.device == "cpu"
        speeds = {name: each.cpu_speed if on_cpu else each.speed for name, each in measured.items()}
        best = max(speeds, key=lambda name: speeds[name])
        found = {"sampling": ways[best].sampling, "batch_size": ways[best].batch_size}
        (self._folder / "grouped.json").write_text(json.dumps(found), encoding="utf-8")
        print(f"best: {best}")

    def compare_variants(self, chosen: Sequence[str]) -> None:
        """Each beside `full`: what it saves, and what it costs."""
        ways = variants(self._folder)
        if unknown := set(chosen) - set(ways):
            raise SystemExit(f"--variants: found {sorted(unknown)}; expected some of {', '.join(ways)}")
        header()
        full = None
        for name in dict.fromkeys(["full", *(chosen or ways)]):
            measured = self._run(name, self._with(ways[name]))
            full = full or measured
            print(
                f"{'':>20} {measured.speed / full.speed:13.2f} of the speed, "
                f"{measured.peak_bytes / full.peak_bytes:.2f} of the memory"
            )

    def compare_budgets(self, bounds_s: Iterable[float], plot: Path | None) -> None:
        """How speed and memory depend on the bound of micro-batches."""
        header()
        measured = {
            bound_s: self._run(f"{bound_s:g} s", self._with({"batches": {"max_micro_batch_s": bound_s}}))
            for bound_s in bounds_s
        }
        if plot:
            draw(measured, plot)

    def compare_memory(self, sizes_s: Iterable[float]) -> None:
        """One micro-batch forward, backward and into the weights, with Caspi's loss and with transformers' own."""
        print("micro_batch_s                ours  tokens  supervised  before_mib  peak_mib     loss")
        for size_s in sizes_s:
            peaks = []
            for way in (self._caspi, self._trainer):
                measured = ask("training_memory", str(self._folder), _json(way), str(size_s))
                peaks.append(measured.peak_bytes)
                print(
                    f"{measured.padded_s:13.0f} {way.kind:>19} {measured.num_tokens:7} {measured.num_supervised:11} "
                    f"{_mib(measured.before_bytes):11.0f} {_mib(measured.peak_bytes):9.0f} {measured.loss:8.4f}",
                    flush=True,
                )
            print(f"caspi / trainer: {peaks[0] / peaks[1]:.2f}")

    def _run(self, name: str, way: Way) -> Measured:
        """Ask for one way, and print what was found."""
        measured = ask("training_ways", str(self._folder), _json(way))
        row(name, measured)
        return measured

    def _with(self, training: Mapping[str, Any]) -> Way:
        return dataclasses.replace(
            self._caspi, training={**self._caspi.training, **training}, num_steps=self._num_steps
        )

    def _grouped(self) -> Way:
        found = _read(self._folder / "grouped.json", {"sampling": "batch_rebalance", "batch_size": 4})
        return dataclasses.replace(self._trainer, **found)


def header() -> None:
    print(
        f"{'way':>20}  utterances/s  per_cpu_s  audio_s/s  steps  batches  padding_tokens  padding_s"
        "  peak_mib  of_device    mfu  wait  loss_after",
        flush=True,
    )


def row(name: str, each: Measured) -> None:
    shares = {
        "tokens": 1 - each.num_real_tokens / each.num_tokens,
        "seconds": 1 - each.audio_s / each.padded_s,
        "device": each.peak_bytes / each.device_bytes if each.device_bytes else float("nan"),
        "wait": each.wait_s / each.seconds,
    }
    print(
        f"{name:>20} {each.speed:13.2f} {each.cpu_speed:10.2f} {each.audio_s / each.seconds:10.1f} {each.num_steps:6} "
        f"{each.num_batches:8} {shares['tokens']:15.1%} {shares['seconds']:10.1%} {_mib(each.peak_bytes):9.0f} "
        f"{shares['device']:10.0%} {each.mfu:6.1%} {shares['wait']:5.1%} {each.loss:11.3f}"
        + (f"  ran out of memory {each.num_halvings} times" if each.num_halvings else ""),
        flush=True,
    )


def draw(measured: Mapping[float, Measured], path: Path) -> None:
    """Utterances per second and peak memory against the bound of micro-batches."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    speed = figure.subplots()
    speed.plot(list(measured), [each.speed for each in measured.values()], marker="o", color="tab:blue")
    speed.set(xlabel="max_micro_batch_s", ylabel="utterances per second")
    memory = speed.twinx()
    memory.plot(list(measured), [each.peak_bytes / 2**30 for each in measured.values()], marker="s", color="tab:orange")
    memory.set_ylabel("peak memory, GiB")
    for axes, color in ((speed, "tab:blue"), (memory, "tab:orange")):
        axes.yaxis.label.set_color(color)
        axes.set_ylim(bottom=0)
    figure.savefig(path)


def _json(way: Way) -> str:
    return json.dumps(dataclasses.asdict(way))


def _read(path: Path, default: Any) -> Any:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else default


def _mib(num_bytes: int) -> float:
    return num_bytes / 2**20


if __name__ == "__main__":
    main()
