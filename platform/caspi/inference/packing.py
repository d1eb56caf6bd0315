"""Linear layers for CPUs, whose weights lie in the order in which oneDNN's kernels read them.

PyTorch multiplies fp32 matrices with MKL, which leaves out AVX-512 on processors that are not Intel's. oneDNN, which
PyTorch brings too and uses for convolutions, does not, and reads packed weights in one go: two to three times the speed
here, in fp32 all the same. It is what `torch.compile` makes of linear layers, without compiling.
"""

from typing import Any

import torch


class PackedLinear(torch.nn.Module):
    """A linear layer for inference. Takes the place of one in fp32, whose weights it does not keep."""

    def __init__(self, linear: torch.nn.Linear) -> None:
        super().__init__()
        self._weight = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), None)
        self._bias = None if linear.bias is None else linear.bias.detach()

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """(..., inputs) -> (..., outputs)"""
        return torch.ops.mkldnn._linear_pointwise.default(inputs, self._weight, self._bias, "none", [], "")


def pack_linears(model: Any) -> None:
    """Let a model's linear layers use oneDNN, for good: it can be neither trained nor saved any more.

    Only those in fp32 on a CPU; others, and layers on a PyTorch that was built without oneDNN, stay as they are.
    """
    if not torch.backends.mkldnn.is_available():
        return
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if type(child) is torch.nn.Linear and (child.weight.device.type, child.weight.dtype) == (
                "cpu",
                torch.float32,
            ):
                setattr(module, name, PackedLinear(child))
