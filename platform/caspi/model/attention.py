"""Attention within each of several pieces that lie end to end: utterances in the decoder, windows in the encoder.

On GPUs with FlashAttention one kernel does all pieces, from where each ends. Elsewhere they are done one by one.

Legend: S tokens of all pieces, N heads, D width of a head.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch.torch_version import TorchVersion
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

# What a config calls it. Where transformers reads "flash", it hands the encoder's windows over together.
DECODER, ENCODER = "caspi_pieces", "caspi_flash_pieces"

_HALF_TYPES = (torch.bfloat16, torch.float16)
_KERNEL_SINCE = (8, 0)  # compute capability: A100 and later
_KERNEL_IN = "2.13"  # of PyTorch, which has FlashAttention for pieces with grouped heads since then


def prepare(module: Any, name: str) -> None:
    """Let the layers of a decoder or an encoder attend within pieces, where they are told of any.

    For good: layers that are computed again in the backward pass must do as they did.
    """
    module.config._attn_implementation = name


def pieces(lengths: Sequence[int], device: torch.device) -> dict[str, Any]:
    """What tells layers of pieces with these lengths."""
    ends = torch.tensor([0, *lengths], device=device).cumsum(0, dtype=torch.int32)
    # A tensor and no list: a compiled layer would be compiled anew for every number of pieces, and after eight no more.
    return {"cu_seq_lens_q": ends, "max_length_q": max(lengths), "lengths": torch.tensor(lengths)}


@lru_cache
def has_kernel(device: torch.device, dtype: torch.dtype | None) -> bool:
    """Whether one kernel attends to pieces of any length, with inputs of this type."""
    return (
        device.type == "cuda"
        and dtype in _HALF_TYPES
        and torch.cuda.get_device_capability(device) >= _KERNEL_SINCE
        and torch.backends.cuda.is_flash_attention_available()
        and TorchVersion(torch.__version__) >= _KERNEL_IN
    )


def attend(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    cu_seq_lens_q: torch.Tensor | None = None,
    max_length_q: int | None = None,
    lengths: torch.Tensor | None = None,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """What transformers calls in each layer: (1, N, S, D) -> (1, S, N, D). Told of no pieces, it is PyTorch's own.

    Args:
        cu_seq_lens_q: where pieces begin and end, (number of pieces + 1,) int32.
        lengths: of the pieces, (number of pieces,) on the host, if they are known there: nothing need wait for the
            device then.
    """
    if cu_seq_lens_q is None:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout, scaling, is_causal=is_causal, **others
        )
    is_causal = module.is_causal if is_causal is None else is_causal
    device = query.device
    is_cast = torch.is_autocast_enabled(device.type)
    dtype = torch.get_autocast_dtype(device.type) if is_cast else query.dtype
    if max_length_q is not None and not dropout and has_kernel(device, dtype):
        from torch.nn.attention.varlen import varlen_attn

        # Autocast does not know the kernel. Norms leave queries and keys in fp32.
        queries, keys, values = (tensor[0].transpose(0, 1).to(dtype) for tensor in (query, key, value))  # (S, N, D)
        joined: Any = varlen_attn(
            queries,
            keys,
            values,
            cu_seq_lens_q,
            cu_seq_lens_q,
            max_length_q,
            max_length_q,
            scale=scaling,
            window_size=(-1, 0) if is_causal else (-1, -1),
            enable_gqa=query.shape[1] != key.shape[1],
        )
        return joined.unsqueeze(0), None
    return _piece_by_piece(module, query, key, value, lengths, cu_seq_lens_q, dropout, scaling, is_causal), None


@torch.compiler.disable  # the number of pieces differs from batch to batch
def _piece_by_piece(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    lengths: torch.Tensor | None,
    ends: torch.Tensor,
    dropout: float,
    scaling: float | None,
    is_causal: bool,
) -> torch.Tensor:
    sizes = (ends.diff() if lengths is None else lengths).tolist()
    attended = [
        sdpa_attention_forward(module, *piece, None, dropout, scaling, is_causal=is_causal)[0]
        for piece in zip(*(tensor.split(sizes, dim=2) for tensor in (query, key, value)), strict=True)
    ]
    return torch.cat(attended, dim=1)


for _name in (DECODER, ENCODER):
    AttentionInterface.register(_name, attend)
    AttentionMaskInterface.register(_name, sdpa_mask)
