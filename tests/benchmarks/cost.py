"""Is `caspi plan` right? Plan runs of different shape on this machine, do them, and compare.

python -m tests.benchmarks.cost CORPUS [SHAPE...]

CORPUS: of `make demo`, runs/demo/corpus. Each shape takes a minute or two.
"""

import argparse
import tempfile
from pathlib import Path

from caspi.recipe import Recipe, load_recipe
from caspi.training import lines, train
from caspi.training.footprint import GIB
from caspi.training.measuring import measure

RECIPE = Path(__file__).parents[2] / "jobs/recipes/demo.yaml"
COMMON = ["validation.max_utterances=16", "validation.every_steps=100000", "checkpoints.every_steps=100000"]

SHAPES = {
    # The demo's own: a million weights, with the loss on its embeddings.
    "small": ["epochs=1", "batches={step_audio_s: 48, max_micro_batch_s: 31}"],
    # Seven million weights, all of them trained.
    "large": ["epochs=1", "batches={step_audio_s: 96, max_micro_batch_s: 60}", "alignment_weight=0"],
    # The same with adapters, layers recomputed, and steps that are twice as large.
    "adapted": [
        "epochs=2",
        "batches={step_audio_s: 192, max_micro_batch_s: 120}",
        "alignment_weight=0",
        "lora={rank: 8}",
        "gradient_checkpointing=true",
    ],
}
LARGE = ["model.toy={encoder_width: 192, encoder_layers: 4, decoder_width: 320, decoder_layers: 4, conv_channels: 16}"]


def recipe_of(shape: str) -> Recipe:
    overrides = [f"training.{each}" for each in (*SHAPES[shape], *COMMON)]
    return load_recipe(RECIPE, overrides=overrides + (LARGE if shape != "small" else []))


def compare_run(recipe: Recipe, corpus: Path) -> None:
    """What a few steps say of a run, and the run."""
    planned = measure(recipe, corpus)
    with tempfile.TemporaryDirectory() as folder:
        train(recipe, corpus=corpus, output=Path(folder) / "run")
        steps = [line for line in lines.read(Path(folder) / "run/progress.jsonl") if line["event"] == "step"]
    counted = [line["train/step_s"] for line in steps if line["step"] > 1]
    taken_s = sum(counted) / len(counted) * planned.survey.num_steps
    used = steps[-1]["train/memory_gib"]
    planned_gib = planned.speed.memory_bytes / GIB
    print(f"  seconds of {planned.survey.num_steps} steps: planned {planned.steps_s:.1f}, taken {taken_s:.1f}, "
          f"ratio {planned.steps_s / taken_s:.2f}")  # fmt: skip
    print(f"  GiB a worker: planned {planned_gib:.2f}, used {used:.2f}, ratio {planned_gib / used:.2f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("shapes", nargs="*", default=[*SHAPES])
    args = parser.parse_args()
    for shape in args.shapes:
        print(shape, flush=True)
        compare_run(recipe_of(shape), args.corpus)


if __name__ == "__main__":
    main()
