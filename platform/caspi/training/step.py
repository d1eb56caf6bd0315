"""One optimizer update over all workers: gradients summed, divided once by the global number of supervised tokens."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

from caspi.model import Batch, loss_sums
from caspi.recipe.sections import Optimizer

_BUCKET_ELEMENTS = 16 * 2**20  # gradients travel in pieces of so many fp32 numbers: 64 MiB


@dataclass(frozen=True, slots=True)
class StepResult:
    """What one update did, the same on every rank."""

    loss: float  # mean cross-entropy per supervised token of the global batch
    alignment_loss: float  # CTC, per supervised token likewise; zero where its weight is
    grad_norm: float  # of the global gradient, before clipping
    num_tokens: int  # supervised
    audio_s: float


def train_step(
    model: Any,
    optimizer: torch.optim.Optimizer,
    batches: Iterable[Batch],
    *,
    device: torch.device,
    autocast: torch.dtype | None,
    max_grad_norm: float,
    alignment_weight: float = 0.0,
) -> StepResult:
    """Do one update from this rank's micro-batches, of which there may be none.

    Every rank must call this for every step, or the others wait for ever in the reduction.
    """
    optimizer.zero_grad(set_to_none=False)
    # Sums of cross-entropy and CTC, supervised tokens, seconds of audio.
    totals = torch.zeros(4, dtype=torch.float64, device=device)
    for batch in batches:
        batch = batch.to(device)
        with torch.autocast(device.type, dtype=autocast, enabled=autocast is not None):
            losses = loss_sums(model, batch, with_alignment=alignment_weight > 0)
        (losses.cross_entropy + alignment_weight * losses.alignment).backward()
        sums = [losses.cross_entropy.item(), losses.alignment.item(), batch.num_supervised, batch.audio_s]
        totals += torch.tensor(sums, dtype=torch.float64, device=device)
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    _sum_over_ranks([totals, *gradients])
    cross_entropy, alignment, num_tokens, audio_s = totals.tolist()
    torch._foreach_div_(gradients, num_tokens)
    grad_norm = torch.nn.utils.clip_grad_norm_(model.parameters(), max_grad_norm, foreach=True)
    optimizer.step()
    return StepResult(cross_entropy / num_tokens, alignment / num_tokens, float(grad_norm), int(num_tokens), audio_s)


def build_optimizer(model: Any, settings: Optimizer) -> torch.optim.AdamW:
    """AdamW on fp32 weights; no decay on biases, norms and embeddings. Gradients exist from the start."""
    decayed: list[torch.nn.Parameter] = []
    plain: list[torch.nn.Parameter] = []
    embedding = model.get_input_embeddings().weight
    for parameter in model.parameters():
        if not parameter.requires_grad:
            continue
        # A rank whose share of a step is empty must bring zeros to the reduction, not nothing.
        parameter.grad = torch.zeros_like(parameter)
        (plain if parameter.ndim < 2 or parameter is embedding else decayed).append(parameter)
    groups = [{"params": decayed, "weight_decay": settings.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=settings.learning_rate, betas=settings.betas, eps=1e-8, fused=True)


def learning_rate(settings: Optimizer, *, step: int, num_steps: int) -> float:
    """The rate of update `step`, counted from 0: a linear warm-up, then the schedule down to `final_share`."""
    warmup = max(1, round(settings.warmup_share * num_steps))
    if step < warmup:
        return settings.learning_rate * (step + 1) / warmup
    progress = (step - warmup) / max(1, num_steps - 1 - warmup)
    remaining = {"cosine": (1 + math.cos(math.pi * progress)) / 2, "linear": 1 - progress, "constant": 1.0}
    floor = settings.final_share if settings.schedule != "constant" else 0.0
    return settings.learning_rate * (floor + (1 - floor) * remaining[settings.schedule])


def _sum_over_ranks(tensors: Sequence[torch.Tensor]) -> None:
    """Sum in place over all ranks, in a few large messages.

    Not DistributedDataParallel, whose reduction is woven into the backward pass: ranks here may run different numbers
    of micro-batches, and a rank that fails in one can still tell the others before anything is sent.
    """
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return
    for bucket in _buckets(tensors):
        flat = torch.cat([tensor.reshape(-1) for tensor in bucket])
        dist.all_reduce(flat)
        for tensor, part in zip(bucket, flat.split([tensor.numel() for tensor in bucket]), strict=True):
            tensor.copy_(part.view_as(tensor))


def _buckets(tensors: Sequence[torch.Tensor]) -> Iterable[list[torch.Tensor]]:
    bucket: list[torch.Tensor] = []
    size = 0
    for tensor in tensors:
        if bucket and (size + tensor.numel() > _BUCKET_ELEMENTS or tensor.dtype != bucket[0].dtype):
            yield bucket
            bucket, size = [], 0
        bucket.append(tensor)
        size += tensor.numel()
    if bucket:
        yield bucket
