"""How fast one thread makes batches: reads shards, decodes, computes log-mel, collates. What each training worker does.

python tests/benchmarks/feed.py RECIPE --corpus CORPUS
"""

import argparse
import tempfile
import time
from pathlib import Path

import torch

from caspi.corpus import Corpus
from caspi.model import Prompter, build_toy
from caspi.recipe import load_recipe
from caspi.text import language_name
from caspi.training.context import ContextMaker
from caspi.training.feed import BatchMaker
from caspi.training.lengths import LengthIndex
from caspi.training.plan import plan_run
from caspi.training.reading import ShardReader


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=20.0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    recipe, corpus = load_recipe(args.recipe), Corpus.open(args.corpus)
    texts = corpus.read_table("train", ["text"])["text"].to_pylist()
    _, processor = build_toy(recipe.model.toy, texts=texts, language=language_name(recipe.data.language), seed=0)
    prompter, training = Prompter(processor.tokenizer), recipe.training
    with tempfile.TemporaryDirectory(prefix="caspi-feed-") as folder:
        index = LengthIndex.build(corpus, prompter, Path(folder))
        plan = plan_run(index, training)[0]
        maker = BatchMaker(
            reader=ShardReader.of_index(corpus, index, max_open_shards=plan.max_open_shards),
            prompter=prompter,
            augmentation=training.augmentation,
            context=ContextMaker(training.context, prompter),
            seed=training.seed,
        )
        audio_s, started = 0.0, time.perf_counter()
        for step in range(plan.num_steps):
            for group in plan.micro_batches(
                step, rank=0, world_size=1, max_micro_batch_s=training.batches.max_micro_batch_s
            ):
                audio_s += maker.make(group, epoch=0).audio_s
            if time.perf_counter() - started > args.seconds:
                break
        seconds = time.perf_counter() - started
    print(f"{audio_s:,.0f} s of audio in {seconds:.1f} s: {audio_s / seconds:,.0f} x real time on one core")


if __name__ == "__main__":
    main()
