"""AdamW whose moments take a byte each instead of four (arXiv 2110.02861), by bitsandbytes."""

import importlib.util
from typing import Any

import torch

from caspi.errors import RequestError


def check_installed() -> None:
    """Raises RequestError where bitsandbytes is not installed."""
    if importlib.util.find_spec("bitsandbytes") is None:
        raise RequestError(
            "training.optimizer.states: 8bit needs the package bitsandbytes, which is not installed here; "
            "install caspi[8bit] on every machine of the run, or keep the states in fp32"
        )


def adamw(
    groups: list[dict[str, Any]], *, betas: tuple[float, float], embedding: torch.nn.Parameter
) -> torch.optim.Optimizer:
    """The optimizer of these groups, with its moments in place.

    Those of the embedding stay in fp32, as the paper advises: the gradients of rare tokens differ by orders of
    magnitude. So do those of weights with fewer than 4,096 numbers.

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
