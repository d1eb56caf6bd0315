"""Linear layers and convolutions for CPUs, whose weights lie in the order in which oneDNN's kernels read them.

PyTorch multiplies fp32 matrices with MKL, which leaves out AVX-512 on processors that are not Intel's. oneDNN, which
PyTorch brings too and uses for convolutions, does not, and reads packed weights in one go: two to three times the speed
here, in fp32 all the same. Convolutions get their weights reordered at every call otherwise, and their inputs too. It
is what `torch.compile` makes of these layers, without compiling.
"""

from typing import Any, Literal

import torch


class PackedLinear(torch.nn.Module):
    """A linear layer for inference. Takes the place of one whose weights it does not keep."""

    def __init__(self, linear: torch.nn.Linear) -> None:
        super().__init__()
        self._weight = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), None)
        self._bias = None if linear.bias is None else linear.bias.detach()

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """(..., inputs) -> (..., outputs)"""
        return torch.ops.mkldnn._linear_pointwise.default(inputs, self._weight, self._bias, "none", [], "")


class PackedConv2d(torch.nn.Module):
    """A convolution for inference, packed for the size of its first input. Its output's channels lie innermost."""

    def __init__(self, convolution: torch.nn.Conv2d) -> None:
        super().__init__()
        self._weight = convolution.weight.detach()
        self._bias = None if convolution.bias is None else convolution.bias.detach()
        self._where = (convolution.padding, convolution.stride, convolution.dilation, convolution.groups)
        self._is_packed = False

    def forward(self, inputs: torch.Tensor, activation: Literal["none", "gelu"] = "none") -> torch.Tensor:
        """(B, channels, height, width) -> (B, channels, height, width)"""
        if not self._is_packed:
            self._weight = torch.ops.mkldnn._reorder_convolution_weight(self._weight, *self._where, inputs.shape)
            self._is_packed = True
        return torch.ops.mkldnn._convolution_pointwise(
            inputs, self._weight, self._bias, *self._where, activation, [], "none"
        )


_PACKED: dict[type, type] = {torch.nn.Linear: PackedLinear, torch.nn.Conv2d: PackedConv2d}


def pack(model: Any) -> None:
    """Let a model's linear layers and convolutions use oneDNN, for good: it can be neither trained nor saved any more.

    Only those on a CPU, in types that oneDNN multiplies there; others, and layers on a PyTorch that was built without
    oneDNN, stay as they are.
    """
    if not torch.backends.mkldnn.is_available():
        return
    types = [torch.float32] + [torch.bfloat16] * torch.ops.mkldnn._is_mkldnn_bf16_supported()
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            kind = _PACKED.get(type(child))
            if kind and child.weight.device.type == "cpu" and child.weight.dtype in types:
                setattr(module, name, kind(child))
