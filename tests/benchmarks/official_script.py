"""What Qwen's official fine-tuning script would have logged, beside what the loss was.

    python tests/benchmarks/official_script.py --output runs/official
    python tests/benchmarks/official_script.py --output runs/official --corpus CORPUS --tokenizer FOLDER

A toy is trained in one process with the settings of the run that is known best by its log (batch 2, accumulation 16,
learning rate 2e-4 falling linearly, 3 epochs, random order), on exact labels and with Caspi's loss. For the same
weights and batches a second forward pass computes what `qwen3_asr_sft.py` (QwenLM/Qwen3-ASR, 7c6daf7) would have
logged: rows padded on the left, labels masked from the left edge, the mean of each micro-batch, summed over the
accumulation steps and multiplied by the number of processes, as transformers 4.57.6 does with a model that takes loss
arguments and ignores them. OUTPUT/losses.csv holds a row per logged step, OUTPUT/shares.csv one per batch size.
"""

import argparse
import csv
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from transformers import Qwen2Tokenizer

from caspi import audio, ray_session, synthesis
from caspi.corpus import Corpus, prepare
from caspi.corpus.format import Utterance
from caspi.model import Batch, Example, Loaded, Prompter, build_toy, collate, loss_sums, num_audio_tokens
from caspi.model.batch import IGNORED
from caspi.recipe import load_recipe
from caspi.recipe.sections import Toy
from caspi.text import language_name

BATCH_SIZE = 2
ACCUMULATION = 16
LEARNING_RATE = 2e-4
EPOCHS = 3
LOG_STEPS = 50
SAVE_STEPS = 500
MAX_GRAD_NORM = 1.0
WORLD_SIZE = 8  # of the run that this imitates: enters as a factor, as it did there
SEED = 42
SHARE_BATCH_SIZES = (1, 2, 4, 8, 16, 32)


@dataclass(frozen=True)
class Logged:
    """One line of the log: means over the steps since the line before."""

    step: int
    learning_rate: float
    loss: float  # ours: cross-entropy per supervised token of the step
    official_mean: float  # with the official labels, mean of the micro-batches' means
    official_sum: float  # summed over the accumulation steps instead
    official_logged: float  # and multiplied by WORLD_SIZE
    not_target: float  # share of the official script's supervised tokens that belong to no target


@dataclass(frozen=True)
class OfficialRows:
    """A batch as the official collator makes it: padded on the left."""

    input_ids: torch.Tensor  # (B, S)
    attention_mask: torch.Tensor  # (B, S)
    labels: torch.Tensor  # (B, S)
    num_supervised: int
    num_not_target: int


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--corpus", type=Path, help="a folder of `caspi prepare`; default: synthetic Hebrew, made here")
    parser.add_argument("--utterances", type=int, default=3_000, help="sentences of the synthetic corpus")
    parser.add_argument("--tokenizer", type=Path, help="a folder with the released tokenizer, for the table of shares")
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.output.mkdir(parents=True, exist_ok=True)
    corpus = Corpus.open(args.corpus or make_corpus(args.output, args.utterances))
    utterances = list(corpus.iter_utterances("train"))
    print(f"{len(utterances)} utterances, {sum(each.duration_s for each in utterances) / 3600:.2f} h", flush=True)
    language = language_name(corpus.manifest["language"])
    loaded = Loaded.wrap(*build_toy(Toy(), texts=[each.text for each in utterances], language=language, seed=SEED))
    prompters = {"toy": loaded.prompter}
    if args.tokenizer:
        prompters["released"] = Prompter(Qwen2Tokenizer.from_pretrained(args.tokenizer))
    report(args.output / "shares.csv", shares(prompters, utterances))
    report(args.output / "losses.csv", (asdict(line) for line in train(loaded, utterances, args.output)))


def make_corpus(folder: Path, num_utterances: int) -> Path:
    """Synthetic Hebrew, prepared, unless an earlier call left it here."""
    if (folder / "corpus" / "manifest.json").exists():
        return folder / "corpus"
    synthesis.synthesize(folder / "speech", num_utterances=num_utterances)
    sources = [
        {"kind": "hub_parquet", "path": str((folder / "speech" / name / "data" / "train-*.parquet").absolute())}
        for name in ("crowd-transcribe-v5", "crowd-recital-whisper-training")
    ]
    recipe = folder / "recipe.yaml"
    recipe.write_text(yaml.safe_dump({"data": {"language": "he", "sources": sources}, "model": {"init": "toy"}}))
    with ray_session.connect():
        return prepare(load_recipe(recipe), folder / "corpus").path


def shares(prompters: dict[str, Prompter], utterances: Sequence[Utterance]) -> Iterator[dict[str, Any]]:
    """How much of what the official script supervises is no target, by tokenizer and batch size, in random order."""
    for name, prompter in prompters.items():
        examples = [example(prompter, each, round(each.duration_s * audio.SAMPLE_RATE)) for each in utterances]
        for batch_size in SHARE_BATCH_SIZES:
            rows = [
                official_rows([examples[place] for place in places], prompter.pad_id)
                for places in micro_batches(len(examples), batch_size=batch_size, epoch=0)
            ]
            wrong, supervised = sum(each.num_not_target for each in rows), sum(each.num_supervised for each in rows)
            yield {"tokenizer": name, "batch_size": batch_size, "not_target": wrong / supervised}


def train(loaded: Loaded, utterances: Sequence[Utterance], output: Path) -> Iterator[Logged]:
    """Train as the imitated run did, but on exact labels. Yields the first step, each that is logged, and the last."""
    steps = [
        group
        for epoch in range(EPOCHS)
        for group in grouped(micro_batches(len(utterances), batch_size=BATCH_SIZE, epoch=epoch), ACCUMULATION)
    ]
    loaded.model.train()
    optimizer = torch.optim.AdamW(loaded.model.parameters(), lr=LEARNING_RATE, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / len(steps))
    window: list[np.ndarray] = []
    for number, groups in enumerate(steps, start=1):
        rate = schedule.get_last_lr()[0]
        window.append(np.array(update(loaded, optimizer, [[utterances[place] for place in group] for group in groups])))
        schedule.step()
        if number % LOG_STEPS == 0 or number in (1, len(steps)):
            loss, mean, total, supervised, not_target = np.mean(window, axis=0).tolist()
            yield Logged(number, rate, loss, mean, total, total * WORLD_SIZE, not_target / supervised)
            window.clear()
        if number % SAVE_STEPS == 0:
            loaded.save(output / f"step-{number}")


def update(
    loaded: Loaded, optimizer: torch.optim.Optimizer, groups: Sequence[Sequence[Utterance]]
) -> tuple[float, float, float, int, int]:
    """One update on exact labels. Returns our loss, the official labels' mean and sum, and the latter's two counts."""
    model, pad_id = loaded.model, loaded.prompter.pad_id
    made = [make(loaded.prompter, group) for group in groups]
    num_tokens = sum(batch.num_supervised for batch, _ in made)
    rows = [official_rows(examples, pad_id) for _, examples in made]
    official = [official_loss(model, each, batch) for each, (batch, _) in zip(rows, made, strict=True)]
    optimizer.zero_grad()
    total = 0.0
    for batch, _ in made:
        losses = loss_sums(model, batch)
        (losses.objective / num_tokens).backward()
        total += losses.cross_entropy.item()
    torch.nn.utils.clip_grad_norm_(model.parameters(), MAX_GRAD_NORM)
    optimizer.step()
    supervised, not_target = sum(each.num_supervised for each in rows), sum(each.num_not_target for each in rows)
    return total / num_tokens, float(np.mean(official)), sum(official), supervised, not_target


def official_rows(examples: Sequence[Example], pad_id: int) -> OfficialRows:
    """Rows as the official collator makes them.

    It pads on the left and then masks as many labels as the prompt is long, from the left edge: in a shorter row that
    covers the padding first, and as many tokens at the end of the prompt stay supervised (QwenLM/Qwen3-ASR#70).
    """
    rows = [each.prompt_ids + each.target_ids for each in examples]
    width = max(map(len, rows))
    input_ids = torch.tensor([[pad_id] * (width - len(row)) + row for row in rows])
    labels = input_ids.clone()
    for row, each in enumerate(examples):
        labels[row, : len(each.prompt_ids)] = IGNORED
    labels[input_ids == pad_id] = IGNORED
    num_supervised = int((labels != IGNORED).sum())
    num_not_target = num_supervised - sum(len(each.target_ids) for each in examples)
    return OfficialRows(input_ids, (input_ids != pad_id).long(), labels, num_supervised, num_not_target)


@torch.no_grad()
def official_loss(model: Any, rows: OfficialRows, batch: Batch) -> float:
    """The mean that transformers' own forward pass returns for one micro-batch."""
    output = model(
        input_ids=rows.input_ids,
        attention_mask=rows.attention_mask,
        input_features=batch.features.values,
        input_features_mask=batch.features.mask,
        labels=rows.labels,
    )
    return output.loss.item()


def make(prompter: Prompter, utterances: Sequence[Utterance]) -> tuple[Batch, list[Example]]:
    clips = [audio.decode(each.audio, source=each.utterance_id).samples for each in utterances]
    examples = [example(prompter, each, len(clip)) for each, clip in zip(utterances, clips, strict=True)]
    return collate(examples, clips, pad_id=prompter.pad_id), examples


def example(prompter: Prompter, utterance: Utterance, num_samples: int) -> Example:
    return prompter.example(
        utterance.text, num_audio_tokens=num_audio_tokens(num_samples), language=language_name(utterance.language)
    )


def micro_batches(num_utterances: int, *, batch_size: int, epoch: int) -> list[np.ndarray]:
    """Places of the utterances of each micro-batch, in the random order of an epoch."""
    order = np.random.default_rng((SEED, epoch)).permutation(num_utterances)
    return np.split(order, range(batch_size, num_utterances, batch_size))


def grouped(items: Sequence[np.ndarray], size: int) -> list[Sequence[np.ndarray]]:
    return [items[start : start + size] for start in range(0, len(items), size)]


def report(path: Path, lines: Iterable[dict[str, Any]]) -> None:
    """Print lines as a table as they come, and write them as CSV."""
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer: csv.DictWriter[str] | None = None
        for line in lines:
            if writer is None:
                writer = csv.DictWriter(file, line.keys())
                writer.writeheader()
                print("\n" + "".join(f"{key:>17}" for key in line), flush=True)
            writer.writerow(line)
            print("".join(f"{value:>17.4g}" if isinstance(value, float) else f"{value:>17}" for value in line.values()))


if __name__ == "__main__":
    main()
