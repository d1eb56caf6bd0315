"""Batches: what they count, and how they are halved."""

import numpy as np
import pytest
import torch

from caspi.model import NO_SPEECH, Batch, Loaded, loss_sums
from caspi.model.batch import IGNORED
from tests.model.making import batch_of, noise

LENGTHS_S = (0.3, 2.2, 1.0, 4.7, 9.3)
TEXTS = ("שלום", "ילד הולך הביתה", "", "בית-ספר גדול", "hello world")
LANGUAGES = ("Hebrew", "Hebrew", NO_SPEECH, "Yiddish", "English")
CONTEXTS = ("", "מונחים: הכנסת", "", "", "Caspi")


@pytest.fixture(scope="module")
def clips() -> list[np.ndarray]:
    return [noise(seconds, seed=row) for row, seconds in enumerate(LENGTHS_S)]


@pytest.fixture(scope="module")
def batch(toy: Loaded, clips: list[np.ndarray]) -> Batch:
    return batch_of(toy.prompter, clips, TEXTS, languages=LANGUAGES, contexts=CONTEXTS)


def test_it_counts_utterances_tokens_and_seconds(toy: Loaded, clips: list[np.ndarray], batch: Batch):
    rows = [
        batch_of(toy.prompter, [clips[i]], [TEXTS[i]], languages=[LANGUAGES[i]], contexts=[CONTEXTS[i]])
        for i in range(5)
    ]
    assert batch.num_utterances == 5
    assert batch.num_tokens == 5 * max(row.num_tokens for row in rows)
    assert batch.num_real_tokens == sum(row.num_tokens for row in rows)
    assert batch.num_supervised == sum(row.num_supervised for row in rows)
    assert batch.padded_s == pytest.approx(5 * 9.3)
    assert batch.audio_s == pytest.approx(17.5)


def test_halves_hold_the_same_utterances_each_as_wide_as_its_own_longest(
    toy: Loaded, clips: list[np.ndarray], batch: Batch
):
    for half, rows in zip(batch.halves(), (slice(0, 2), slice(2, 5)), strict=True):
        alone = batch_of(toy.prompter, clips[rows], TEXTS[rows], languages=LANGUAGES[rows], contexts=CONTEXTS[rows])
        assert torch.equal(half.input_ids, alone.input_ids)
        assert torch.equal(half.labels, alone.labels)
        assert all(torch.equal(one, other) for one, other in zip(half.texts, alone.texts, strict=True))
        assert torch.equal(half.features.mask, alone.features.mask)
        torch.testing.assert_close(half.features.values, alone.features.values)


def test_losses_of_halves_of_halves_add_up_to_the_wholes(toy: Loaded, batch: Batch):
    first, second = batch.halves()
    parts = [first, *second.halves()]
    whole = loss_sums(toy.model, batch, with_alignment=True, label_smoothing=0.1)
    sums = [loss_sums(toy.model, part, with_alignment=True, label_smoothing=0.1) for part in parts]
    for field in ("cross_entropy", "objective", "alignment"):
        together = sum(getattr(part, field).item() for part in sums)
        assert together == pytest.approx(getattr(whole, field).item(), rel=1e-5)
    assert sum(part.num_supervised for part in parts) == batch.num_supervised
    assert sum(part.audio_s for part in parts) == pytest.approx(batch.audio_s)


def test_one_utterance_cannot_be_halved(toy: Loaded):
    alone = batch_of(toy.prompter, [noise(1)], ["שלום"])
    with pytest.raises(ValueError, match="one utterance"):
        alone.halves()


def test_padding_is_never_supervised(batch: Batch, toy: Loaded):
    is_pad = batch.input_ids == toy.prompter.pad_id
    assert is_pad.any()
    assert (batch.labels[is_pad] == IGNORED).all()
