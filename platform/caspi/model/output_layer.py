"""Cross-entropy of the output layer, whose logits become their own gradient on the way.

Logits are the largest tensor of a step: 151,936 numbers for each token that is predicted. Autograd would make three
more of their size, softmax and gradients, and keep them until the backward pass. Here each logit is replaced, some
tokens at a time, by the gradient of the loss by it, so there is one tensor of that size (as in Liger's kernels,
arXiv 2410.10989), in the precision of the product that made it.

Legend: L tokens, H hidden size, V vocabulary.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

# Of logits in fp32 that are looked at together. On a CPU it is memory that is used again and again, without asking the
# system for more.
_BLOCK_BYTES = 16 * 2**20


def token_losses(
    hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, *, label_smoothing: float = 0.0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Sums of the cross-entropy in fp32, without and with label smoothing; the latter alone has gradients.

    Args:
        hidden: what predicts each token, (L, H).
        weight: of the output layer, (V, H).
        targets: (L,).
        label_smoothing: share of each target that is spread evenly over the vocabulary (arXiv 1512.00567).
    """
    cross_entropy, objective = _TokenLosses.apply(F.linear(hidden, weight), targets, label_smoothing)
    return cross_entropy if label_smoothing else objective, objective


class _TokenLosses(torch.autograd.Function):
    """Of logits (L, V), which must not be used for anything else: they are overwritten."""

    @staticmethod
    def forward(
        ctx: Any, logits: torch.Tensor, targets: torch.Tensor, smoothing: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        vocabulary = logits.shape[-1]
        size = max(1, _BLOCK_BYTES // (4 * vocabulary))
        cross_entropy, objective = torch.zeros((), device=logits.device), torch.zeros((), device=logits.device)
        for block, labels in zip(logits.split(size), targets.unsqueeze(-1).split(size), strict=True):
            log_probabilities = block.float().log_softmax(-1)  # (L of the block, V)
            of_block = -log_probabilities.gather(-1, labels).sum()
            cross_entropy += of_block
            objective += (1 - smoothing) * of_block
            if smoothing:
                objective -= smoothing * log_probabilities.mean(-1).sum()
            if ctx.needs_input_grad[0]:
                # The softmax less what it should be.
                errors = log_probabilities.exp_()
                if smoothing:
                    errors -= smoothing / vocabulary
                errors.scatter_add_(-1, labels, errors.new_full(labels.shape, smoothing - 1))
                block.copy_(errors)
        ctx.save_for_backward(logits)
        ctx.mark_non_differentiable(cross_entropy)
        return cross_entropy, objective

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, _: torch.Tensor, scale: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        (errors,) = ctx.saved_tensors
        return errors if scale == 1 else errors * scale, None, None
