"""The yardstick: a small model from nothing on chanted Hebrew, always as many steps. Minutes long; figures go to
docs/experiments.md.

pytest -m slow tests/real_speech/test_chanted.py --material=FOLDER -s
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from caspi import evaluation, ray_session
from caspi.corpus import Corpus, prepare
from caspi.model import load
from caspi.model.loss import loss_sums
from caspi.recipe import load_recipe
from caspi.recipe.augmentation import Augmentation
from caspi.recipe.sections import Context
from caspi.training import train
from caspi.training.context import ContextMaker
from caspi.training.feed import BatchMaker
from caspi.training.reading import ShardReader

RECIPE = Path(__file__).with_name("chanted.yaml")
PIECE_S = 2.5

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]


def measure(speech: Path, output: Path, *changes: str) -> tuple[float, float]:
    """Prepare, train with some values of the recipe changed; loss per token and CER of the validation split."""
    write_pieces(speech / "pockettorah" / "manifest.jsonl", output / "pieces")
    recipe = load_recipe(RECIPE, overrides=[f"data.sources.0.path={output / 'pieces'}", *changes])
    with ray_session.connect():
        corpus = prepare(recipe, output / "corpus")
        result = train(recipe, corpus=corpus.path, output=output / "run", on_progress=print)
        metrics = evaluation.evaluate(
            result.model, corpus, split="validation", output=output / "evaluation", limits=recipe.inference
        )
    return validation_loss(result.model, corpus), metrics["cer"]


def write_pieces(manifest: Path, folder: Path) -> None:
    """Verses cut between words, whose times are known, as Kaldi tables: each a recording with several segments."""
    tables: dict[str, list[str]] = {"wav.scp": [], "segments": [], "text": []}
    for line in manifest.read_text(encoding="utf-8").splitlines():
        verse = json.loads(line)
        tables["wav.scp"].append(f"{verse['id']} {manifest.parent / verse['audio']}")
        for number, piece in enumerate(pieces(verse["words"])):
            name = f"{verse['id']}-{number:02d}"
            tables["segments"].append(f"{name} {verse['id']} {piece[0][1]:.3f} {piece[-1][2]:.3f}")
            tables["text"].append(f"{name} {' '.join(word for word, _, _ in piece)}")
    folder.mkdir(parents=True)
    for name, lines in tables.items():
        (folder / name).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def pieces(words: list[tuple[str, float, float]]) -> Iterator[list[tuple[str, float, float]]]:
    """Words with their starts and ends, as many together as last `PIECE_S`."""
    piece: list[tuple[str, float, float]] = []
    for word in words:
        piece.append(word)
        if word[2] - piece[0][1] >= PIECE_S:
            yield piece
            piece = []
    if piece:
        yield piece


def validation_loss(model: Path, corpus: Corpus) -> float:
    """Mean cross-entropy per supervised token, what `train/loss` is in training."""
    loaded = load(model)
    maker = BatchMaker(
        reader=ShardReader.of_split(corpus, "validation"),
        prompter=loaded.prompter,
        augmentation=Augmentation(),
        context=ContextMaker(Context(), loaded.prompter),
        seed=0,
    )
    total, num_tokens = 0.0, 0
    loaded.model.eval()
    with torch.no_grad():
        for positions in np.array_split(np.arange(size := len(corpus.index("validation"))), -(-size // 8)):
            batch = maker.make(positions, epoch=0)
            total += float(loss_sums(loaded.model, batch).cross_entropy)
            num_tokens += batch.num_supervised
    return total / num_tokens


def test_chanted_hebrew_is_learnt_as_far_as_it_was(material: Callable[[str], Path], tmp_path: Path):
    loss, cer = measure(material("speech"), tmp_path)
    print(f"chanted Hebrew: validation loss {loss:.3f}, CER {cer:.1%}")
    assert loss < 2.85
    assert cer < 0.88
