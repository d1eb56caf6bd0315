"""Losses: sums in true units, with and without smoothing, with and without speech."""

import copy

import pytest
import torch
import torch.nn.functional as F

from caspi.model import NO_SPEECH, Batch, Loaded, loss_sums
from caspi.model.batch import IGNORED
from caspi.model.forward import encode
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


SECONDS = (0.01, 0.3, 0.49, 0.5, 0.51, 0.99, 1.0, 1.01, 2.5, 7.99, 8.0, 8.01, 12.3, 16.0, 29.97)


@torch.no_grad()
def supervised_logits(model, batch: Batch) -> list[torch.Tensor]:
    """What the output layer says at the supervised positions of each row: B of (L of the row, V)."""
    heard: list[torch.Tensor] = []
    hook = model.model.language_model.register_forward_hook(
        lambda _module, _inputs, output: heard.append(output.last_hidden_state)
    )
    loss_sums(model, batch)
    hook.remove()
    supervised = batch.labels[:, 1:] != IGNORED
    return list(model.lm_head(heard[0][:, :-1][supervised]).split(supervised.sum(-1).tolist()))


def test_logits_depend_neither_on_neighbours_nor_on_padding(toy: Loaded):
    clips = [noise(seconds, seed=place) for place, seconds in enumerate(SECONDS)]
    texts = ["שלום עולם " * (1 + place % 5) for place in range(len(clips))]
    together = supervised_logits(toy.model, batch_of(toy.prompter, clips, texts))
    other_way_round = supervised_logits(toy.model, batch_of(toy.prompter, clips[::-1], texts[::-1]))[::-1]
    for place, seconds in enumerate(SECONDS):
        (alone,) = supervised_logits(toy.model, batch_of(toy.prompter, [clips[place]], [texts[place]]))
        for batched in (together[place], other_way_round[place]):
            torch.testing.assert_close(batched, alone, atol=1e-5, rtol=0, msg=lambda said, s=seconds: f"{s} s: {said}")
