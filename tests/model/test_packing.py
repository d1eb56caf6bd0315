"""Packed, bucketed, and one by one: the same losses, logits and gradients."""

import copy
import inspect
from itertools import pairwise

import numpy as np
import pytest
import torch

from caspi.model import NO_SPEECH, Batch, Loaded, attention, loss_sums
from caspi.model.batch import IGNORED
from caspi.model.forward import encode
from tests.model.making import batch_of, noise

# One is a whole number of windows, one longer than a window by a little, one is filled up to half a second.
LENGTHS_S = (0.3, 8.0, 2.2, 17.1, 1.0, 4.7, 0.01)
TEXTS = ("שלום", "ילד הולך הביתה", "", "בית-ספר גדול " * 9, "hello world", "שלום עולם", "")
LANGUAGES = ("Hebrew", "Hebrew", NO_SPEECH, "Yiddish", "English", "Hebrew", NO_SPEECH)
CONTEXTS = ("", "מונחים: הכנסת", "", "", "Caspi", "", "Caspi")
LOSSES = ("cross_entropy", "objective", "alignment")
_ROUNDING = 3e-5  # of a gradient that is a sum over thousands of positions, as a share of its largest number
EVERYTHING = {"with_alignment": True, "label_smoothing": 0.1}


@pytest.fixture(scope="module")
def clips() -> list[np.ndarray]:
    return [noise(seconds, seed=row) for row, seconds in enumerate(LENGTHS_S)]


def make(toy: Loaded, clips: list[np.ndarray], rows: list[int], collation: str) -> Batch:
    return batch_of(
        toy.prompter,
        [clips[row] for row in rows],
        [TEXTS[row] for row in rows],
        languages=[LANGUAGES[row] for row in rows],
        contexts=[CONTEXTS[row] for row in rows],
        collation=collation,
    )


ALL = list(range(len(LENGTHS_S)))


@pytest.fixture(scope="module")
def packed(toy: Loaded, clips: list[np.ndarray]) -> Batch:
    return make(toy, clips, ALL, "packed")


@pytest.fixture(scope="module")
def bucketed(toy: Loaded, clips: list[np.ndarray]) -> Batch:
    return make(toy, clips, ALL, "bucketed")


def gradients(toy: Loaded, batches: list[Batch]) -> tuple[dict[str, float], dict[str, torch.Tensor]]:
    """Sums of the losses over batches, and their gradients."""
    model = copy.deepcopy(toy.model)
    sums = dict.fromkeys(LOSSES, 0.0)
    for batch in batches:
        losses = loss_sums(model, batch, **EVERYTHING)
        (losses.objective + 0.3 * losses.alignment).backward()
        sums = {name: sums[name] + getattr(losses, name).item() for name in LOSSES}
    return sums, {name: parameter.grad for name, parameter in model.named_parameters()}


def check_same_gradients(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    for name, gradient in found.items():
        bound = _ROUNDING * max(1.0, expected[name].abs().max().item())
        torch.testing.assert_close(gradient, expected[name], atol=bound, rtol=0, msg=name)


@pytest.mark.parametrize("split", [[ALL], [ALL[::-1]], [ALL[:3], ALL[3:]], [[row] for row in ALL]])
@pytest.mark.parametrize("collation", ["packed", "bucketed"])
def test_every_split_and_collation_has_the_same_losses_and_gradients(toy, clips, bucketed, split, collation):
    expected, expected_gradients = gradients(toy, [bucketed])
    sums, found = gradients(toy, [make(toy, clips, rows, collation) for rows in split])
    for name in LOSSES:
        assert sums[name] == pytest.approx(expected[name], rel=1e-5)
    check_same_gradients(found, expected_gradients)


def test_gradient_checkpointing_keeps_utterances_apart_too(toy, clips, packed, bucketed):
    """Layers are then computed a second time, when nothing of the forward pass is around them any more."""
    recomputed = Loaded(copy.deepcopy(toy.model), toy.processor, toy.prompter)
    recomputed.model.gradient_checkpointing_enable({"use_reentrant": False})
    recomputed.model.train()
    _, expected = gradients(toy, [bucketed])
    check_same_gradients(gradients(recomputed, [packed])[1], expected)


def test_what_one_utterance_says_does_not_reach_another(toy, clips, packed):
    """Other audio, text and context in the first utterance: the logits of all others stay as they are, to the bit."""
    other = [noise(0.3, seed=99), *clips[1:]]
    changed = batch_of(
        toy.prompter, other, ("עולם", *TEXTS[1:]), languages=LANGUAGES, contexts=CONTEXTS, collation="packed"
    )
    logits, others = (supervised_logits(toy.model, batch) for batch in (packed, changed))
    assert not torch.equal(logits[0], others[0])
    for one, same in zip(logits[1:], others[1:], strict=True):
        torch.testing.assert_close(one, same, atol=1e-6, rtol=0)


@torch.no_grad()
def supervised_logits(model, batch: Batch) -> list[torch.Tensor]:
    """At the positions that predict the targets of each utterance: B of (targets, V)."""
    hidden: list[torch.Tensor] = []
    hook = model.model.language_model.register_forward_hook(
        lambda _module, _inputs, output: hidden.append(output.last_hidden_state)
    )
    loss_sums(model, batch)
    hook.remove()
    ends = np.cumsum([0, *batch.lengths])
    logits = model.lm_head(hidden[0][0])
    labels = batch.labels[0]
    return [logits[start : end - 1][labels[start + 1 : end] != IGNORED] for start, end in pairwise(ends)]


def test_nothing_of_a_packed_batch_is_padding(toy, packed, bucketed):
    assert packed.num_tokens == packed.num_real_tokens == bucketed.num_real_tokens < bucketed.num_tokens
    assert packed.padded_s == packed.audio_s == pytest.approx(sum(LENGTHS_S))
    assert toy.prompter.pad_id not in packed.input_ids
    assert packed.num_supervised == bucketed.num_supervised
    assert packed.num_utterances == bucketed.num_utterances == len(LENGTHS_S)


def test_halves_are_packed_as_the_whole_was(toy, clips, packed):
    for half, rows in zip(packed.halves(), (ALL[:3], ALL[3:]), strict=True):
        alone = make(toy, clips, rows, "packed")
        assert torch.equal(half.input_ids, alone.input_ids)
        assert torch.equal(half.labels, alone.labels)
        assert torch.equal(half.sound.signal, alone.sound.signal)
        assert half.lengths == alone.lengths
        assert half.sound.num_samples == alone.sound.num_samples


def test_a_model_that_was_trained_on_packs_answers_as_before(toy, packed):
    """It generates with the same attention as ever, and is saved as the plain native model that it was."""
    plain, trained = copy.deepcopy(toy.model), copy.deepcopy(toy.model)
    loss_sums(trained, packed)
    features = packed.features
    prompt = torch.tensor([toy.prompter.prompt(packed.sound.num_tokens[3], language="Hebrew")] * 2)
    values, mask = features.values[[3, 3]], features.mask[[3, 3]]
    answers = [
        model.generate(input_ids=prompt, input_features=values, input_features_mask=mask, max_new_tokens=12)
        for model in (plain, trained)
    ]
    assert torch.equal(*answers)
    assert plain.config.to_json_string() == trained.config.to_json_string()


def test_the_encoder_computes_each_clip_as_if_it_were_alone(toy, packed, clips):
    together = encode(toy.model, packed.features).split(list(packed.sound.num_tokens))
    native = toy.model.model.get_audio_features(packed.features.values, packed.features.mask, return_dict=True)
    torch.testing.assert_close(torch.cat(together), native.pooler_output, atol=1e-5, rtol=0)


def by_hand(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, cu_seq_q: torch.Tensor, cu_seq_k: torch.Tensor,
    max_q: int, max_k: int, *, scale: float, window_size: tuple[int, int], enable_gqa: bool,
) -> torch.Tensor:  # fmt: skip
    """What PyTorch's kernel is documented to do: (S, N, D) -> (S, N, D), pieces between the borders in `cu_seq_q`."""
    assert torch.equal(cu_seq_q, cu_seq_k)
    assert cu_seq_q.dtype == torch.int32
    assert max_q == max_k == cu_seq_q.diff().max()
    assert enable_gqa == (query.shape[1] != key.shape[1])
    attended = []
    for start, end in pairwise(cu_seq_q.tolist()):
        heads = [tensor[start:end].transpose(0, 1) for tensor in (query, key, value)]
        keys, values = (tensor.repeat_interleave(len(heads[0]) // len(tensor), 0) for tensor in heads[1:])
        scores = scale * heads[0] @ keys.transpose(1, 2)
        if window_size == (-1, 0):
            scores = scores.masked_fill(torch.ones_like(scores[0]).triu(1).bool(), -torch.inf)
        attended.append((scores.softmax(-1) @ values).transpose(0, 1))
    return torch.cat(attended)


@pytest.mark.parametrize("collation", ["packed", "bucketed"])
def test_the_kernel_is_asked_for_the_same(toy, clips, bucketed, collation, monkeypatch):
    """Where there is one. With what it is documented to do in its place, written by hand."""
    from torch.nn.attention import varlen

    calls: list[int] = []

    def kernel(*arguments, **options):
        bound = inspect.signature(real).bind(*arguments, **options)
        calls.append(len(bound.args[0]))
        return by_hand(*arguments, **options)

    real = varlen.varlen_attn
    expected, expected_gradients = gradients(toy, [bucketed])
    monkeypatch.setattr(varlen, "varlen_attn", kernel)
    monkeypatch.setattr(attention, "has_kernel", lambda device, dtype: True)
    batch = make(toy, clips, ALL, collation)
    sums, found = gradients(toy, [batch])
    num_layers = {"packed": 2 + 2, "bucketed": 2}[collation]  # of the encoder, and of the decoder
    assert len(calls) == num_layers
    assert set(calls) == {sum(batch.sound.num_tokens), batch.num_tokens} if collation == "packed" else {calls[0]}
    for name in LOSSES:
        assert sums[name] == pytest.approx(expected[name], rel=1e-5)
    check_same_gradients(found, expected_gradients)


@pytest.mark.gpu
def test_flash_attention_keeps_utterances_apart(toy: Loaded, packed: Batch, bucketed: Batch):
    """In bf16 packed and bucketed agree as closely as bf16 does with fp32; in fp32, where there is no kernel, fully."""
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    device = torch.device("cuda")
    if not attention.has_kernel(device, torch.bfloat16):
        pytest.skip(f"{torch.cuda.get_device_name(device)} has no FlashAttention")
    model = copy.deepcopy(toy.model).to(device)
    expected = loss_sums(toy.model, bucketed).cross_entropy.item()
    for batch in (packed, bucketed):
        assert loss_sums(model, batch.to(device)).cross_entropy.item() == pytest.approx(expected, rel=1e-4)
        with torch.autocast("cuda", dtype=torch.bfloat16):
            losses = loss_sums(model, batch.to(device))
        assert losses.cross_entropy.item() == pytest.approx(expected, rel=1e-2)
        losses.objective.backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters() if parameter.grad is not None)
