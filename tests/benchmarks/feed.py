"""Feeding alone, the model replaced by a timer: how fast on a core, and in how much memory.

    python tests/benchmarks/feed.py                        # utterances a second, by threads and augmentation
    python tests/benchmarks/feed.py --padding              # what of batches is padding; needs no audio
    python tests/benchmarks/feed.py --stream 144000        # memory, while an hour's utterances of a GPU are taken

Six hours of made-up clips with the lengths of crowd-transcribe (lognormal, 5.5 s on average, 0.5 to 30 s), FLAC in
shards as `caspi prepare` writes them; epochs follow each other. The code is the one that training runs: reading,
decoding, augmentation, prompts, packing. Log-mel spectrograms are the device's, and timed apart.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from caspi import audio
from caspi.corpus import Corpus
from caspi.memory import tree_memory
from caspi.model import Prompter, build_toy
from caspi.recipe.augmentation import Augmentation, Noise
from caspi.recipe.sections import Context, Toy
from caspi.training.context import ContextMaker
from caspi.training.feed import BatchMaker, Planned, ahead
from caspi.training.lengths import LengthIndex
from caspi.training.plan import plan_epoch
from caspi.training.reading import ShardReader

_NUM_UTTERANCES = 4000
_SPREADS = (0.5, 0.7)
_PER_SHARD = 500
_PER_ROW_GROUP = 32  # as in prepared corpora
_WORDS = ["שלום", "ילד", "הולך", "הביתה", "עכשיו", "גדולה", "ים", "עיר", "הכנסת", "ישיבה"]
_NOISE = Noise(share=1, kinds=("white",))
_AUGMENTATIONS = {
    "none": Augmentation(),
    "gain, shift, noise, masks": Augmentation(
        gain_db=6, max_shift_s=0.2, noise=_NOISE, time_masks=2, frequency_masks=2
    ),
    "the same and speed": Augmentation(
        gain_db=6, max_shift_s=0.2, noise=_NOISE, time_masks=2, frequency_masks=2, speed=0.1
    ),
}
_STEP_AUDIO_S, _RANKS, _MICRO_BATCH_S = 1400.0, 8, 240.0
_GPU_UTTERANCES_PER_S = 40.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=12.0, help="of each measurement")
    parser.add_argument("--padding", action="store_true")
    parser.add_argument("--stream", type=int, help="utterances to take")
    parser.add_argument("--utterances-per-s", type=float, default=_GPU_UTTERANCES_PER_S)
    args = parser.parse_args()
    if args.padding:
        padding()
        return
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="caspi-feed-") as folder:
        maker, index = made(Path(folder))
        if args.stream is not None:
            stream(maker, index, args.stream, args.utterances_per_s)
        else:
            rates(maker, index, args.seconds)


def lengths(num_utterances: int, spread: float) -> np.ndarray:
    """Seconds of each utterance, of lognormal distribution."""
    random = np.random.default_rng(0)
    return np.clip(random.lognormal(np.log(5.5) - spread**2 / 2, spread, num_utterances), 0.5, 30)


def made(folder: Path) -> tuple[BatchMaker, LengthIndex]:
    """A corpus in a folder, and what makes batches of it."""
    durations_s = lengths(_NUM_UTTERANCES, _SPREADS[-1])
    random = np.random.default_rng(1)
    noise = random.standard_normal(40 * audio.SAMPLE_RATE).astype(np.float32)
    noise = np.convolve(noise, np.hanning(32) / 40, mode="same")  # falls with frequency, as speech does
    names = []
    for first in range(0, _NUM_UTTERANCES, _PER_SHARD):
        rows = [
            _row(first + place, seconds, noise, random)
            for place, seconds in enumerate(durations_s[first:][:_PER_SHARD])
        ]
        names.append(f"shard-{first:05d}.parquet")
        # FLAC is compressed.
        pq.write_table(
            pa.Table.from_pylist(rows), folder / names[-1], row_group_size=_PER_ROW_GROUP, compression="NONE"
        )
    _, processor = build_toy(Toy(), texts=[" ".join(_WORDS)] * 20, language="Hebrew", seed=0)
    prompter = Prompter(processor.tokenizer)
    index = LengthIndex.of(durations_s, [_PER_SHARD] * len(names))
    maker = BatchMaker(
        reader=ShardReader(Corpus(folder, {}), names, index.starts, max_open_shards=len(names)),
        prompter=prompter,
        augmentation=Augmentation(),
        context=ContextMaker(Context(), prompter),
        seed=0,
        collation="packed",
    )
    return maker, index


def _row(number: int, seconds: float, noise: np.ndarray, random: np.random.Generator) -> dict[str, Any]:
    start = int(random.integers(0, len(noise) - 30 * audio.SAMPLE_RATE))
    return {
        "utterance_id": f"{number:06d}",
        "audio": audio.encode_flac(noise[start:][: int(seconds * audio.SAMPLE_RATE)]),
        "text": " ".join(random.choice(_WORDS, max(1, int(2 * seconds)))),
        "language": "he",
        "previous_text": None,
    }


def planned(index: LengthIndex) -> Iterator[Planned]:
    """What the first of eight ranks computes, epoch after epoch."""
    epoch = 0
    while True:
        plan = plan_epoch(index, step_audio_s=_STEP_AUDIO_S, seed=0, epoch=epoch)
        for step in range(plan.num_steps):
            groups = plan.micro_batches(
                step, rank=0, world_size=_RANKS, max_micro_batch_s=_MICRO_BATCH_S, collation="packed"
            )
            yield Planned(epoch, groups, sum(float(plan.lengths(group)[0].sum()) for group in groups))
        epoch += 1


def rates(maker: BatchMaker, index: LengthIndex, seconds: float) -> None:
    print(
        "augmentation                threads  utterances/s  x real time  utterances/s of a core  x real time of a core"
    )
    for name, augmentation in _AUGMENTATIONS.items():
        for num_threads in (1, 2):
            each = replace(maker, augmentation=augmentation)
            feed = ahead(lambda each=each, n=num_threads: each.shares(planned(index), num_threads=n))
            for _ in range(3):
                next(feed)
            num_utterances, audio_s, started, cpu_started = 0, 0.0, time.perf_counter(), time.process_time()
            while time.perf_counter() - started < seconds:
                for batch in next(feed).batches:
                    num_utterances += batch.num_utterances
                    audio_s += batch.audio_s
            wall_s, cpu_s = time.perf_counter() - started, time.process_time() - cpu_started
            feed.close()
            print(
                f"{name:27} {num_threads:7} {num_utterances / wall_s:13.0f} {audio_s / wall_s:12.0f} "
                f"{num_utterances / cpu_s:21.0f} {audio_s / cpu_s:12.0f}",
                flush=True,
            )
    share = next(iter(maker.shares(planned(index), num_threads=1)))
    started = time.process_time()
    for batch in share.batches * 3:
        _ = batch.features
    audio_s = 3 * sum(batch.audio_s for batch in share.batches)
    print(f"log-mel on the CPU: {audio_s / (time.process_time() - started):,.0f} x real time of a core")


def stream(maker: BatchMaker, index: LengthIndex, num_wanted: int, utterances_per_s: float) -> None:
    """Take utterances at a steady rate, as training would, and watch the memory."""
    each = replace(maker, augmentation=_AUGMENTATIONS["the same and speed"])
    feed = ahead(lambda: each.shares(planned(index), num_threads=2))
    started, reported = time.perf_counter(), 0
    num_utterances, waited_s = 0, 0.0
    print("utterances  seconds  waited, s  memory, MiB")
    while num_utterances < num_wanted:
        asked = time.perf_counter()
        num_utterances += len(next(feed).items)
        waited_s += time.perf_counter() - asked
        time.sleep(max(0.0, started + num_utterances / utterances_per_s - time.perf_counter()))
        if num_utterances - reported >= num_wanted / 12:
            elapsed_s, mib = time.perf_counter() - started, tree_memory(os.getpid()) / 2**20
            print(f"{num_utterances:10,} {elapsed_s:8.0f} {waited_s:10.1f} {mib:12.0f}", flush=True)
            reported = num_utterances
    feed.close()


def padding() -> None:
    """What share of seconds and of tokens is padding, of a million utterances.

    Tokens are 22 of prompt, 13 a second of audio and about 5.5 a second of text.
    """
    for spread in _SPREADS:
        durations_s = lengths(1_000_000, spread)
        text = 5.5 * durations_s * np.random.default_rng(1).lognormal(0, 0.25, len(durations_s))
        num_tokens = (22 + 13 * durations_s + text).astype(int)
        print(f"lognormal, sigma {spread}:")
        for size in (4, 16):
            groups = list(np.arange(100_000).reshape(-1, size))
            _print_padding(f"random batches of {size}", groups, durations_s, num_tokens)
        index = LengthIndex.of(durations_s, [1250] * 800, num_tokens=num_tokens)
        plan = plan_epoch(index, step_audio_s=_STEP_AUDIO_S, seed=0, epoch=0)
        for world_size in (1, _RANKS):
            groups = [
                group
                for step in np.linspace(0, plan.num_steps - 1, 200).astype(int).tolist()
                for rank in range(world_size)
                for group in plan.micro_batches(
                    step, rank=rank, world_size=world_size, max_micro_batch_s=_MICRO_BATCH_S, collation="bucketed"
                )
            ]
            _print_padding(f"bucketed, {world_size} ranks", groups, durations_s, num_tokens)
        whole_s = np.ceil(durations_s).sum()
        print(
            f"  packed: none; convolutions, which take whole seconds, {1 - durations_s.sum() / whole_s:.1%} in either"
        )


def _print_padding(what: str, groups: Sequence[np.ndarray], durations_s: np.ndarray, num_tokens: np.ndarray) -> None:
    seconds, tokens = (
        1 - sum(sizes[group].sum() for group in groups) / sum(len(group) * sizes[group].max() for group in groups)
        for sizes in (durations_s, num_tokens)
    )
    print(f"  {what}: {seconds:.1%} of seconds, {tokens:.1%} of tokens")


if __name__ == "__main__":
    main()
