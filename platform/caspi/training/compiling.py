"""Layers compiled by torch.compile: fewer passes over memory for norms, activations and rotations."""

import contextlib
from typing import Any

import torch

from caspi.model.parts import layers


def compile_layers(model: Any, device: torch.device) -> str | None:
    """Compile every layer of encoder and decoder for batches of any shape. Returns why not, where it does not work.

    Names of weights stay. Compiling itself happens when the layers are first called: one code for all that are alike.
    """
    if problem := _problem(device):
        return problem
    layer: Any
    for layer in layers(model, "encoder"):
        # It goes through its windows in Python, and their number differs from batch to batch.
        layer.self_attn.forward = torch.compiler.disable(layer.self_attn.forward)
    for layer in (*layers(model, "encoder"), *layers(model, "decoder")):
        layer.compile(dynamic=True)
    return None


def eagerly(*, is_compiled: bool) -> contextlib.AbstractContextManager[Any]:
    """Within the block, compiled layers run as they are written: decoding has shapes of its own at every token."""
    return torch.compiler.set_stance("force_eager") if is_compiled else contextlib.nullcontext()


def _problem(device: torch.device) -> str | None:
    """What is missing, by compiling something small: a compiler of C++ or Triton, or its headers."""
    try:
        torch.compile(_double)(torch.ones(8, device=device))
    except Exception as error:  # inductor has many ways to say it, and wraps them
        cause = getattr(error, "inner_exception", error)
        return f"{type(cause).__name__}: {' '.join(str(cause).split())[:200]}"
    return None


def _double(values: torch.Tensor) -> torch.Tensor:
    return values * 2
