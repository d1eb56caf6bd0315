"""How fast clips are decoded: transformers' `generate`, one at a time and in batches, against the engine that serves.

    python tests/benchmarks/decoding.py --size 20 --lengths equal
    python tests/benchmarks/decoding.py --size 60 --lengths ragged

Models with random weights, clips of 6.4 s. Each answer has 24 tokens, or from 17 to 60. `generate` gets its clips in
batches, each of which ends with its longest answer; the engine gets as many at a time, and another one whenever one
leaves. All ways by turns in one process; of several turns the median. With --cpu-time one thread, and the seconds that
it was given: for machines that others use too.
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable, Sequence

import numpy as np
import torch
from transformers import Qwen3ASRForConditionalGeneration

from caspi.allocation import keep_freed_memory_of_any_size
from caspi.inference import repetition
from caspi.inference.engine import Clip
from caspi.inference.packing import pack
from caspi.inference.transformers_engine import TransformersEngine
from caspi.model import Loaded, build_toy, log_mel, num_audio_tokens
from caspi.model.toy import toy_config
from caspi.recipe.sections import Inference, Toy

CLIP_S = 6.4
NUM_TOKENS = 24
RAGGED = (17, 60)
ALWAYS_ALLOWED = 16  # tokens of an answer, beside those for each second
AT_A_TIME = (1, 4, 16, 32)
VOCABULARY = 8_000
SIZES = {
    20: Toy(
        conv_channels=32, encoder_width=256, encoder_layers=6, encoder_heads=4,
        decoder_width=384, decoder_layers=6, decoder_heads=6,
    ),
    60: Toy(
        conv_channels=48, encoder_width=384, encoder_layers=6, encoder_heads=6,
        decoder_width=640, decoder_layers=8, decoder_heads=10,
    ),
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, choices=SIZES, default=20, help="millions of parameters")
    parser.add_argument("--lengths", choices=("equal", "ragged"), default="equal", help="of the answers")
    parser.add_argument("--clips", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--cpu-time", action="store_true", help="of one thread, rather than what a clock says")
    args = parser.parse_args()
    torch.set_num_threads(1 if args.cpu_time else os.cpu_count() or 1)
    keep_freed_memory_of_any_size()  # as whoever loads a model for inference does
    repetition.MAX_COPIES = 1_000  # random models go round in circles, and here they shall
    random = np.random.default_rng(0)
    clips = [random.normal(0, 0.1, int(CLIP_S * 16_000)).astype(np.float32) for _ in range(args.clips)]
    shortest, longest = (NUM_TOKENS, NUM_TOKENS) if args.lengths == "equal" else RAGGED
    lengths = random.integers(shortest, longest + 1, args.clips).tolist()
    clock = time.process_time if args.cpu_time else time.perf_counter
    compare(SIZES[args.size], clips, lengths, repeats=args.repeats, clock=clock)


def compare(
    sizes: Toy, clips: Sequence[np.ndarray], lengths: Sequence[int], *, repeats: int, clock: Callable[[], float]
) -> None:
    theirs, ours = build(sizes), build(sizes)
    pack(ours.model)
    ways: dict[str, Callable[[], int]] = {}
    for size in AT_A_TIME:
        ways[f"generate, {size} at a time"] = lambda size=size: generate(theirs, clips, lengths, size)
    for size in AT_A_TIME:
        ways[f"engine, {size} at a time"] = lambda size=size: decode(ours, clips, lengths, size)
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(repeats + 1):
        for name, run in ways.items():
            began = clock()
            num_clips = run()
            if turn:  # the first steps take longer
                rates[name].append(num_clips / (clock() - began))
    num_parameters = sum(weight.numel() for weight in theirs.model.parameters())
    print(
        f"{num_parameters / 1e6:.1f} M parameters, {torch.get_num_threads()} threads, {len(clips)} clips, "
        f"answers of {min(lengths)} to {max(lengths)} tokens"
    )
    for name, each in rates.items():
        rate, turns = statistics.median(each), ", ".join(f"{turn:.1f}" for turn in each)
        print(f"  {name:<26} {rate:6.1f} clips/s  {rate * CLIP_S:6.0f} x real time (of {turns})")


def build(sizes: Toy) -> Loaded:
    """A random model that never ends by itself, whose query heads share key heads two by two."""
    _, processor = build_toy(Toy(), texts=["שלום עולם"], language="Hebrew", seed=0)
    config = toy_config(sizes, processor.tokenizer)
    config.text_config.vocab_size = VOCABULARY
    config.text_config.num_key_value_heads = sizes.decoder_heads // 2
    torch.manual_seed(0)
    loaded = Loaded.wrap(Qwen3ASRForConditionalGeneration(config).eval(), processor)
    # An output layer of its own: with that of its embedding a random model repeats its last token, which is a loop.
    loaded.model.lm_head.weight = torch.nn.Parameter(torch.randn_like(loaded.model.lm_head.weight))
    with torch.no_grad():
        loaded.model.lm_head.weight[loaded.model.generation_config.eos_token_id] = 0
    return loaded


@torch.inference_mode()
def generate(loaded: Loaded, clips: Sequence[np.ndarray], lengths: Sequence[int], size: int) -> int:
    """Transcribe with transformers' own loop, in batches of `size`; a quarter of the clips if that is one."""
    num_clips = len(clips) if size > 1 else len(clips) // 4
    for first in range(0, num_clips, size):
        batch = clips[first : first + size]
        features = log_mel(batch)
        ids = torch.tensor([loaded.prompter.prompt(num_audio_tokens(len(clip)), language="Hebrew") for clip in batch])
        longest = max(lengths[first : first + size])
        answers = loaded.model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            input_features=features.values,
            input_features_mask=features.mask,
            max_new_tokens=longest,
            do_sample=False,
        )
        assert answers.shape[1] == ids.shape[1] + longest
    return num_clips


def decode(loaded: Loaded, clips: Sequence[np.ndarray], lengths: Sequence[int], size: int) -> int:
    """Transcribe with the engine, `size` clips inside whenever there are as many; a quarter of them if that is one."""
    engine = TransformersEngine(loaded, limits=Inference(max_batch_s=2 * CLIP_S * max(size, 8), max_tokens_per_s=1.0))
    # A clip that says to be so long, which is not looked at again, gets so many tokens.
    waiting = [
        Clip(clip, duration_s=length - ALWAYS_ALLOWED, language="he")
        for clip, length in zip(clips, lengths, strict=True)
    ]
    waiting = waiting if size > 1 else waiting[: len(clips) // 4]
    num_clips, num_inside = len(waiting), 0
    while waiting or num_inside:
        starting, waiting = waiting[: size - num_inside], waiting[size - num_inside :]
        num_inside += len(engine.start(starting)) - len(done := engine.step())
        assert all(answer.finish != "stop" for _, answer in done)
    return num_clips


if __name__ == "__main__":
    main()
