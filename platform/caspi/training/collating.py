"""Which of the two collations a run uses."""

from collections.abc import Sequence

import torch

from caspi.model import attention
from caspi.recipe.sections import Collation, Training
from caspi.training.step import autocast_type


def fitting(training: Training, device: torch.device) -> Collation:
    """What the recipe says, or what suits one rank's device."""
    asked = training.batches.collation
    if asked != "auto":
        return asked
    # A call for each utterance and layer costs a CPU less than padding and more passes do, see docs/benchmarks.md. A
    # GPU that has no kernel for all of them together would wait for thousands of launches.
    has_kernel = attention.has_kernel(device, autocast_type(training.precision, device))
    return "packed" if has_kernel or device.type == "cpu" else "bucketed"


def agreed(wishes: Sequence[Collation]) -> Collation:
    """What all ranks do, since it decides who computes what: packed if that suits all of them."""
    return "packed" if all(wish == "packed" for wish in wishes) else "bucketed"


def planned(training: Training) -> Collation:
    """What a run will do on GPUs that `caspi plan` knows. All of them have the kernel, for bf16."""
    asked = training.batches.collation
    if asked != "auto":
        return asked
    return "bucketed" if training.precision == "fp32" else "packed"
