"""Which weights a run trains, how fast each of them learns, and which layers are computed twice to save memory."""

import functools
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

from caspi.errors import RequestError
from caspi.model.adapters import add_adapters
from caspi.model.flops import NOTHING, Parts
from caspi.model.parts import layers, num_layers, num_layers_above, part_of
from caspi.recipe.learning import GradientCheckpointing, Part, Rates
from caspi.recipe.sections import Optimizer, Training
from caspi.training import eight_bit

# A bias of the keys shifts all scores of a query alike, and softmax does not see it. Its gradient is rounding noise,
# which Adam would scale up to full steps: weights that depend on how a batch was split, to no effect.
_WITHOUT_EFFECT = "k_proj.bias"

_CHECKPOINTED: tuple[Part, ...] = ("encoder", "decoder")


def check(settings: Training, config: Any) -> None:
    """See, before anything is started, that a recipe fits the model and this installation. `config`: Qwen3ASRConfig.

    Raises:
        RequestError: a layer that the model does not have, or a package that is not installed.
    """
    for part in _CHECKPOINTED:
        _, end = _bounds(settings.gradient_checkpointing, part, there := num_layers(config, part))
        if end > there:
            raise RequestError(
                f"training.gradient_checkpointing.{part}: asks for layers up to {end}, and the model's {part} has "
                f"{there}; end at {there} or before, or write `true` for all"
            )
    if settings.optimizer.states == "8bit":
        eight_bit.check_installed()


def recomputed(settings: GradientCheckpointing, config: Any) -> Parts:
    """The share of each part's layers that gradient checkpointing computes a second time."""
    shares = {}
    for part in _CHECKPOINTED:
        there = num_layers(config, part)
        first, end = _bounds(settings, part, there)
        shares[part] = (end - first) / there
    return NOTHING._replace(**shares)


def prepare(model: Any, settings: Training) -> None:
    """Let a model learn in the recipe's way; what requires a gradient afterwards is what is trained."""
    if settings.lora:
        add_adapters(model, settings.lora, seed=settings.seed)
    for name, parameter in model.named_parameters():
        if part_of(name) in settings.frozen:
            parameter.requires_grad_(False)
    for part in _CHECKPOINTED:
        of_part = layers(model, part)
        first, end = _bounds(settings.gradient_checkpointing, part, len(of_part))
        layer: Any
        for layer in of_part[first:end]:
            # Not `activation_checkpointing_enable`, which takes all layers, and the gradient of the embedding besides.
            layer.gradient_checkpointing = True
            layer._gradient_checkpointing_func = functools.partial(checkpoint, use_reentrant=False)


def groups(model: Any, settings: Optimizer) -> list[dict[str, Any]]:
    """The trained weights by what the optimizer does with them.

    Each group has, beside what torch reads, its `share` of the learning rate. Biases, norms and embeddings do not
    decay. What has no effect on the model is frozen.
    """
    embedding = model.get_input_embeddings().weight
    found: dict[tuple[float, float], list[torch.nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if name.endswith(_WITHOUT_EFFECT):
            parameter.requires_grad_(False)
        if parameter.requires_grad:
            is_plain = parameter.ndim < 2 or parameter is embedding
            key = _share(model, name, settings.rates), 0.0 if is_plain else settings.weight_decay
            found.setdefault(key, []).append(parameter)
    return [
        {"params": parameters, "share": share, "lr": share * settings.learning_rate, "weight_decay": decay}
        for (share, decay), parameters in found.items()
    ]


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Let every group of weights learn at its share of the rate of this step."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["share"]


def _share(model: Any, name: str, rates: Rates) -> float:
    share: float = getattr(rates, part_of(name))
    return share * rates.layer_decay ** num_layers_above(model, name)


def _bounds(settings: GradientCheckpointing, part: Part, there: int) -> tuple[int, int]:
    chosen: bool | tuple[int, int] = getattr(settings, part)
    return (0, there if chosen else 0) if isinstance(chosen, bool) else chosen
