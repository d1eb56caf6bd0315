"""The type of a model's weights where it transcribes."""

import torch

from caspi.recipe.sections import Precision


def weight_type(precision: Precision, device: torch.device) -> torch.dtype:
    """What a recipe's `inference.precision` means on a device."""
    if precision == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    return torch.bfloat16 if precision == "bf16" else torch.float32
