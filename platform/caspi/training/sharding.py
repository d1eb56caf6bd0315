"""Layers whose weights, gradients and moments are shared out over the workers, by FSDP2 (arXiv 2304.11277).

Each layer of encoder and decoder is gathered when it is needed, forward and backward, and only then. What is around
them (embedding, convolutions, projector, last norms: a sixth of the 1.7B model) stays whole on every worker, and its
gradients are reduced like those of a model that is not sharded.

To gather a layer, all ranks must come to it: each runs as many forward and backward passes in a step as any other.
"""

import contextlib
import re
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard, share_comm_ctx
from torch.distributed.tensor import DTensor, distribute_tensor

from caspi.model.parts import layers

_LAYER = re.compile(r"\.(audio_tower|language_model)\.layers\.\d+\.")


def shard(model: Any, device: torch.device) -> None:
    """Leave to each rank its share of every layer."""
    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    all_layers = [*layers(model, "encoder"), *layers(model, "decoder")]
    for layer in all_layers:
        # Each is a root to FSDP, which would keep roots whole from the forward pass to the backward pass.
        sharded = fully_shard(layer, mesh=mesh, reshard_after_forward=True)
        # Sums, since a step divides once by the tokens of all ranks; gloo cannot do more.
        sharded.set_gradient_divide_factor(1.0)
        sharded.set_force_sum_reduction_for_comms(True)
    # Or every layer's whole gradient would be kept to the end of the backward pass: a root gives what it has sent back
    # when the next layer of its own sends.
    share_comm_ctx(all_layers)


def layer_of(name: str) -> str | None:
    """The layer that a weight of this name is shared out with; None for what is around the layers."""
    found = _LAYER.search(name)
    return found[0] if found else None


def is_shared(tensor: torch.Tensor) -> bool:
    """Whether this rank holds only a share of it."""
    return isinstance(tensor, DTensor)


def share_of(tensor: torch.Tensor) -> torch.Tensor:
    """What this rank holds of a tensor, not copied: of one that is not shared, all."""
    with torch.no_grad():
        return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """All of it. Where it is shared every rank must ask."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


@torch.no_grad()
def put(tensor: torch.Tensor, values: torch.Tensor) -> None:
    """Copy whole values into a tensor of which this rank may hold a share."""
    if isinstance(tensor, DTensor):
        values = distribute_tensor(
            values.to(tensor.device), tensor.device_mesh, tensor.placements, src_data_rank=None
        )  # without a word to others: all have the same
    tensor.copy_(values)


@contextlib.contextmanager
def gathered(model: torch.nn.Module) -> Iterator[None]:
    """Within the block every rank has all layers whole, and may compute without the others."""
    sharded = [module for module in model.modules() if isinstance(module, FSDPModule)]
    for module in sharded:
        module.unshard()
        module.set_reshard_after_forward(False, recurse=False)
    try:
        yield
    finally:
        for module in sharded:
            module.set_reshard_after_forward(True, recurse=False)
            module.reshard()
