"""AdamW whose moments take a byte each instead of four (arXiv 2110.02861), by bitsandbytes."""

import importlib.util
from typing import Any

import torch

from caspi.errors import RequestError

_SMALLEST = 4096  # numbers; fewer keep fp32 moments
_BLOCK = 256  # numbers that share a scale


def check_installed() -> None:
    """Raises RequestError where bitsandbytes is not installed."""
    if importlib.util.find_spec("bitsandbytes") is None:
        raise RequestError(
            "training.optimizer.states: 8bit needs the package bitsandbytes, which is not installed here; "
            "install caspi[8bit] on every machine of the run, or keep the states in fp32"
        )


def moments_bytes(parameter: torch.Tensor, *, embedding: torch.nn.Parameter) -> int:
    """What the two moments of one weight take; it may be on the device `meta`."""
    size = parameter.numel()
    if parameter is embedding or size < _SMALLEST:
        return 8 * size
    return 2 * (size + 4 * -(-size // _BLOCK))


def adamw(
    groups: list[dict[str, Any]], *, betas: tuple[float, float], embedding: torch.nn.Parameter
) -> torch.optim.Optimizer:
    """The optimizer of these groups, with its moments in place.

    Those of the embedding stay in fp32, as the paper advises: the gradients of rare tokens differ by orders of
    magnitude. So do those of small weights.

    Raises:
        RequestError: bitsandbytes is not installed.
    """
    check_installed()
    from bitsandbytes.optim import AdamW8bit

    optimizer: Any = AdamW8bit(groups, betas=betas)
    for group_index, group in enumerate(optimizer.param_groups):
        for index, parameter in enumerate(group["params"]):
            if parameter is embedding:
                moments = {name: torch.zeros_like(parameter) for name in ("state1", "state2")}
                optimizer.state[parameter] = {"step": 0, **moments}
            else:
                optimizer.init_state(group, parameter, group_index, index)
    return optimizer
