"""Losses: sums in true units, with and without smoothing, with and without speech."""

import copy

import pytest
import torch
import torch.nn.functional as F

from caspi.model import NO_SPEECH, Batch, Loaded, loss_sums
from caspi.model.batch import IGNORED
from caspi.model.loss import encode
from tests.model.making import batch_of, noise


@pytest.fixture(scope="module")
def batch(toy: Loaded) -> Batch:
    return batch_of(toy.prompter, [noise(0.4), noise(2.5), noise(1.0)], ["שלום", "ילד הולך הביתה", "hello"])


def native_logits(toy: Loaded, batch: Batch) -> torch.Tensor:
    """Logits at the positions that predict supervised tokens, by transformers' own forward pass: (L, V)."""
    logits = toy.model(
        input_ids=batch.input_ids, input_features=batch.features.values, input_features_mask=batch.features.mask
    ).logits
    return logits[:, :-1][batch.labels[:, 1:] != IGNORED]


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
def test_smoothing_changes_the_objective_and_not_what_is_reported(toy: Loaded, batch: Batch, smoothing: float):
    losses = loss_sums(toy.model, batch, label_smoothing=smoothing)
    logits, targets = native_logits(toy, batch), batch.labels[batch.labels != IGNORED]
    plain = F.cross_entropy(logits, targets, reduction="sum")
    smoothed = F.cross_entropy(logits, targets, reduction="sum", label_smoothing=smoothing)
    torch.testing.assert_close(losses.cross_entropy, plain, rtol=1e-5, atol=0)
    torch.testing.assert_close(losses.objective, smoothed, rtol=1e-5, atol=0)
    assert losses.alignment == 0


def test_without_smoothing_there_is_one_loss(toy: Loaded, batch: Batch):
    losses = loss_sums(toy.model, batch)
    assert torch.equal(losses.objective, losses.cross_entropy)


def test_no_speech_is_a_target_like_any_other(toy: Loaded):
    batch = batch_of(toy.prompter, [noise(0.4), noise(3)], ["", "שלום"], languages=[NO_SPEECH, "Hebrew"])
    supervised = batch.labels[0][batch.labels[0] != IGNORED]
    assert toy.processor.tokenizer.decode(supervised) == "language None<asr_text><|im_end|>"
    assert toy.prompter.parse(supervised.tolist()) == (None, "")


@pytest.mark.parametrize("texts", [["", ""], ["", "שלום"]])
def test_alignment_to_an_empty_text_is_all_blanks(toy: Loaded, texts: list[str]):
    clips = [noise(0.4), noise(3)]
    languages = [NO_SPEECH if not text else "Hebrew" for text in texts]
    together = loss_sums(toy.model, batch_of(toy.prompter, clips, texts, languages=languages), with_alignment=True)
    expected = torch.zeros(())
    for samples, text, language in zip(clips, texts, languages, strict=True):
        alone = batch_of(toy.prompter, [samples], [text], languages=[language])
        if text:
            expected = expected + loss_sums(toy.model, alone, with_alignment=True).alignment
            continue
        logits = toy.model.lm_head(toy.model.model.language_model.norm(encode(toy.model, alone.features)))
        expected = expected - logits.log_softmax(-1)[:, toy.model.config.audio_token_id].sum()
    torch.testing.assert_close(together.alignment, expected, rtol=1e-5, atol=0)


def test_every_weight_gets_a_finite_gradient_from_silence_alone(toy: Loaded):
    model = copy.deepcopy(toy.model)
    batch = batch_of(toy.prompter, [noise(0.4), noise(3)], ["", ""], languages=[NO_SPEECH] * 2)
    losses = loss_sums(model, batch, with_alignment=True, label_smoothing=0.1)
    (losses.objective + losses.alignment).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
