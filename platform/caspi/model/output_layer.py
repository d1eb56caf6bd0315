"""Cross-entropy of the output layer, whose gradients are made on the way, some tokens at a time.

Logits are the largest tensor of a step: 151,936 numbers for each token that is predicted. Autograd would keep them from
the forward pass to the backward one, and make three more of their size. Here a group of tokens has its logits, their
softmax and its share of the gradients before the next group is begun, as in Liger's kernels (arXiv 2410.10989).

Legend: L tokens, H hidden size, V vocabulary.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

# Logits of one group, in fp32. Each group adds to the gradient of the whole layer, which costs as much as computing
# some ten tokens, so groups are hundreds of tokens large.
_GROUP_BYTES = 256 * 2**20


def token_losses(
    hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, *, label_smoothing: float = 0.0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Sums of the cross-entropy, without and with label smoothing. If that is asked for, only the latter has gradients.

    Args:
        hidden: what predicts each token, (L, H).
        weight: of the output layer, (V, H).
        targets: (L,).
        label_smoothing: share of each target that is spread evenly over the vocabulary (arXiv 1512.00567).
    """
    cross_entropy, objective = _TokenLosses.apply(hidden, weight, targets, label_smoothing, torch.is_grad_enabled())
    return cross_entropy if label_smoothing else objective, objective


class _TokenLosses(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        targets: torch.Tensor,
        smoothing: float,
        needs_gradients: bool,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        device = hidden.device.type
        # Not left to autocast: what it casts here, without gradients, it would use again where they are needed.
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype
        cross_entropy, objective = torch.zeros((), device=hidden.device), torch.zeros((), device=hidden.device)
        of_hidden, of_weight = torch.empty_like(hidden), None
        size = max(1, _GROUP_BYTES // (4 * len(weight)))
        with torch.autocast(device, enabled=False):
            cast = weight.to(dtype)
            for inputs, labels, place in zip(
                hidden.to(dtype).split(size), targets.unsqueeze(-1).split(size), of_hidden.split(size), strict=True
            ):
                log_probabilities = F.linear(inputs, cast).float().log_softmax(-1)  # (L of the group, V)
                group = -log_probabilities.gather(-1, labels).sum()
                cross_entropy += group
                objective += (1 - smoothing) * group
                if smoothing:
                    objective -= smoothing * log_probabilities.mean(-1).sum()
                if not needs_gradients:
                    continue
                # By logits, the gradient is the softmax less what it should be.
                errors = log_probabilities.exp_()
                if smoothing:
                    errors -= smoothing / len(weight)
                errors.scatter_add_(-1, labels, errors.new_full(labels.shape, smoothing - 1))
                errors = errors.to(dtype)
                place.copy_(errors @ cast)
                part = (errors.T @ inputs).to(weight.dtype)
                of_weight = part if of_weight is None else of_weight.add_(part)
        # Not saved for the backward pass but handed over: autograd adds to a tensor in place that nobody else holds.
        ctx.gradients = of_hidden, of_weight
        ctx.mark_non_differentiable(cross_entropy)
        return cross_entropy, objective

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, _: torch.Tensor, scale: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        of_hidden, of_weight = ctx.gradients
        del ctx.gradients
        if scale != 1:
            of_hidden.mul_(scale)
            of_weight.mul_(scale)
        return of_hidden, of_weight, None, None, None
