"""Low-rank adapters by peft, put into the native model: its class and its calls stay what they are.

Without dropout: what it draws would depend on how a step is split, and with it the result.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch

from caspi.model.parts import part_of
from caspi.recipe.learning import Lora

_NAME = "default"  # of peft's adapter, of which there is one


def add_adapters(model: torch.nn.Module, settings: Lora, *, seed: int) -> None:
    """Put an adapter beside every linear layer of `settings.parts`, and freeze all other weights.

    They add nothing until they are trained.
    """
    from peft import LoraConfig, inject_adapter_in_model  # only runs with adapters need it

    linear = [
        name
        for name, module in model.named_modules()
        # The output layer is the embedding where the two are tied, which a merge would part.
        if isinstance(module, torch.nn.Linear) and name != "lm_head" and part_of(name) in settings.parts
    ]
    torch.manual_seed(seed)  # every rank must draw the same
    inject_adapter_in_model(LoraConfig(r=settings.rank, lora_alpha=settings.alpha, target_modules=linear), model)


def is_adapted(model: torch.nn.Module) -> bool:
    """Whether a model has adapters."""
    return bool(_adapted(model))


@contextlib.contextmanager
def merged(model: torch.nn.Module) -> Iterator[None]:
    """Within the block, adapters are added to the weights beside them. Afterwards those are what they were, to the bit.

    Takes memory for the adapted weights once more. A model without adapters stays as it is.
    """
    layers = _adapted(model)
    before = [layer.base_layer.weight.data for layer in layers]
    for layer, weight in zip(layers, before, strict=True):
        # Not peft's own merge: its way back is a subtraction, which leaves rounding behind.
        layer.base_layer.weight.data = weight + layer.get_delta_weight(_NAME).detach()
        layer.merged_adapters.append(_NAME)
    try:
        yield
    finally:
        for layer, weight in zip(layers, before, strict=True):
            layer.base_layer.weight.data = weight
            layer.merged_adapters.remove(_NAME)


def native_weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The weights, not copied, by the names that they have in a model without adapters; those are left out."""
    return {
        name.replace(".base_layer.", "."): tensor for name, tensor in model.state_dict().items() if ".lora_" not in name
    }


def _adapted(model: torch.nn.Module) -> list[Any]:
    return [module for module in model.modules() if hasattr(module, "merged_adapters")]
