"""The yardstick: a small model from nothing on chanted Hebrew, always as many steps. Minutes long; figures go to
docs/experiments.md.

pytest -m slow tests/real_speech/test_chanted.py --material=FOLDER -s
"""

from collections.abc import Callable
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

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]


def measure(speech: Path, output: Path, *changes: str) -> tuple[float, float]:
    """Prepare, train with some values of the recipe changed; loss per token and CER of the validation split."""
    source = f"data.sources.0.path={speech / 'pockettorah' / 'manifest.jsonl'}"
    recipe = load_recipe(RECIPE, overrides=[source, *changes])
    with ray_session.connect():
        corpus = prepare(recipe, output / "corpus")
        result = train(recipe, corpus=corpus.path, output=output / "run", on_progress=print)
        metrics = evaluation.evaluate(
            result.model, corpus, split="validation", output=output / "evaluation", limits=recipe.inference
        )
    return validation_loss(result.model, corpus), metrics["cer"]


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
    assert loss < 3.0
    assert cer < 0.9
