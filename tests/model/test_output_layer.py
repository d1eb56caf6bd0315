"""Losses and gradients of the output layer are those of PyTorch's cross-entropy, however tokens are taken together."""

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from caspi.model import output_layer
from caspi.model.output_layer import token_losses

TOKENS, HIDDEN, VOCABULARY = 23, 8, 50


def made(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """What predicts, the weights, and the targets."""
    random = torch.Generator().manual_seed(seed)
    hidden = torch.randn(TOKENS, HIDDEN, generator=random, requires_grad=True)
    weight = torch.randn(VOCABULARY, HIDDEN, generator=random, requires_grad=True)
    return hidden, weight, torch.randint(0, VOCABULARY, (TOKENS,), generator=random)


class LargeTensors(TorchDispatchMode):
    """Gathers the memory of all tensors that are made and have so many numbers."""

    def __init__(self, at_least: int) -> None:
        super().__init__()
        self._at_least = at_least
        self.storages: dict[int, torch.UntypedStorage] = {}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, torch.Tensor) and tensor.untyped_storage().nbytes() >= 4 * self._at_least:
                self.storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
        return made


@pytest.mark.parametrize("tokens_at_once", [1, 7, 23, 100])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("scale", [1.0, 0.3])
def test_losses_and_gradients_are_those_of_cross_entropy(
    monkeypatch: pytest.MonkeyPatch, tokens_at_once: int, smoothing: float, scale: float
):
    monkeypatch.setattr(output_layer, "_BLOCK_BYTES", tokens_at_once * VOCABULARY * 4)
    hidden, weight, targets = made()
    logits = hidden @ weight.T
    expected = F.cross_entropy(logits, targets, reduction="sum", label_smoothing=smoothing)
    of_hidden, of_weight = torch.autograd.grad(scale * expected, (hidden, weight))
    cross_entropy, objective = token_losses(hidden, weight, targets, label_smoothing=smoothing)
    torch.testing.assert_close(cross_entropy, F.cross_entropy(logits, targets, reduction="sum"), rtol=1e-5, atol=0)
    torch.testing.assert_close(objective, expected, rtol=1e-5, atol=0)
    found_of_hidden, found_of_weight = torch.autograd.grad(scale * objective, (hidden, weight))
    torch.testing.assert_close(found_of_hidden, of_hidden, rtol=0, atol=1e-5)
    torch.testing.assert_close(found_of_weight, of_weight, rtol=0, atol=1e-5)


def test_there_is_one_tensor_of_the_size_of_all_logits(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(output_layer, "_BLOCK_BYTES", 5 * VOCABULARY * 4)
    hidden, weight, targets = made()
    with LargeTensors(at_least=TOKENS * VOCABULARY) as large:
        token_losses(hidden, weight, targets)[1].backward()
    assert len(large.storages) == 1


def test_bf16_arithmetic_is_near_fp32_and_gradients_stay_fp32():
    hidden, weight, targets = made()
    _, expected = token_losses(hidden, weight, targets)
    gradients = torch.autograd.grad(expected, (hidden, weight))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        _, objective = token_losses(hidden, weight, targets)
    assert objective.dtype == torch.float32
    torch.testing.assert_close(objective, expected, rtol=1e-2, atol=0)
    for found, exact in zip(torch.autograd.grad(objective, (hidden, weight)), gradients, strict=True):
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, exact, rtol=0, atol=0.05 * exact.abs().max())


def test_without_gradients_there_is_a_loss_and_nothing_to_differentiate():
    hidden, weight, targets = made()
    with torch.no_grad():
        _, objective = token_losses(hidden, weight, targets)
    assert not objective.requires_grad
    torch.testing.assert_close(objective, F.cross_entropy(hidden @ weight.T, targets, reduction="sum"))


def test_rows_that_were_looked_up_add_their_gradient_to_the_tied_layers():
    _, weight, targets = made()
    ids = torch.arange(TOKENS) % 3
    gradients = []
    for sparse in (True, False):
        weight.grad = torch.ones_like(weight)  # of a micro-batch before
        hidden = F.embedding(ids, weight, sparse=sparse)
        token_losses(hidden, weight, targets)[1].backward()
        gradients.append(weight.grad)
    assert not gradients[0].is_sparse
    torch.testing.assert_close(*gradients)
