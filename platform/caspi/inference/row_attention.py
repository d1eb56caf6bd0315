"""Attention while answers are written: one new query for each row, over all that the row has in a `SlotCache`.

On GPUs it is PyTorch's kernel. On CPUs that one reads keys and values at a quarter of the memory's speed, since the
matrices that it multiplies have a single row. There the products of a query with all keys, if these lie across, are
taken as a sum of rows weighted by the query, and what is heard as a sum of values weighted by how much each counts.
Weighted sums of rows are what `embedding_bag` is made for.

Legend: n rows in use, R rows of the cache, W positions of a row that are looked at, N query heads, K key and value
heads, G = N / K, D width of a head.
"""

from typing import Protocol

import torch
import torch.nn.functional as F

from caspi.inference.slot_cache import SlotCache

_WIDTH_STEP = 16  # PyTorch makes a kernel for each width of the rows that it adds up, and keeps it


class RowAttention(Protocol):
    """The attention of one step, for all layers."""

    def __call__(self, layer: int, queries: torch.Tensor, *, scale: float) -> torch.Tensor:
        """(n, N, D) -> (n, N, D)"""


class KernelAttention:
    """By PyTorch's attention."""

    def __init__(self, cache: SlotCache, lengths: torch.Tensor, *, longest: int, num_heads: int) -> None:
        """See `row_attention`."""
        self._cache = cache
        self._rows = (slice(len(lengths)), slice(longest))
        self._groups = (cache.num_heads, num_heads // cache.num_heads)
        self._mask = _mask(lengths, longest, cache.dtype)[:, None]  # (n, 1, 1, W)

    def __call__(self, layer: int, queries: torch.Tensor, *, scale: float) -> torch.Tensor:
        """See `RowAttention`."""
        keys, values = (
            part[self._rows].transpose(1, 2) for part in (self._cache.keys(layer), self._cache.values(layer))
        )  # each (n, K, W, D)
        # The G query heads that share a key head attend like G queries: nothing is repeated.
        grouped = queries.unflatten(1, self._groups)  # (n, K, G, D)
        heard = F.scaled_dot_product_attention(grouped, keys, values, attn_mask=self._mask, scale=scale)
        return heard.flatten(1, 2)


class SumAttention:
    """By weighted sums. The cache's keys lie across."""

    def __init__(self, cache: SlotCache, lengths: torch.Tensor, *, longest: int, num_heads: int) -> None:
        """See `row_attention`."""
        self._cache = cache
        self._width = min(longest + -longest % _WIDTH_STEP, cache.width)
        self._mask = _mask(lengths, self._width, cache.dtype)  # (n, 1, W)
        rows = torch.arange(len(lengths)).view(-1, 1, 1)
        heads = (torch.arange(num_heads) // (num_heads // cache.num_heads)).view(-1, 1)
        numbers, positions = torch.arange(cache.head_dim), torch.arange(self._width)
        # Where the rows that each query adds up lie: (n N, D) among (R K D, W), and (n N, W) among (R W K, D).
        self._of_keys = ((rows * cache.num_heads + heads) * cache.head_dim + numbers).flatten(0, 1)
        self._of_values = ((rows * cache.width + positions) * cache.num_heads + heads).flatten(0, 1)

    def __call__(self, layer: int, queries: torch.Tensor, *, scale: float) -> torch.Tensor:
        """See `RowAttention`."""
        keys = self._cache.keys(layer).permute(0, 2, 3, 1).flatten(0, 2)[:, : self._width]
        values = self._cache.values(layer).flatten(0, 2)
        scores = _weighted_sums(self._of_keys, keys, (queries * scale).flatten(0, 1)).unflatten(0, queries.shape[:2])
        weights = (scores + self._mask).softmax(-1).flatten(0, 1)
        return _weighted_sums(self._of_values, values, weights).view_as(queries)


def keys_lie_across(device: torch.device) -> bool:
    """How the cache has to be laid out for `row_attention`."""
    return device.type == "cpu"


def row_attention(cache: SlotCache, lengths: torch.Tensor, *, longest: int, num_heads: int) -> RowAttention:
    """The one for the device of the cache.

    Args:
        lengths: positions of each row, (n,).
        longest: of the lengths, known on the host, so that nothing waits for the device.
        num_heads: of queries.
    """
    kind = SumAttention if keys_lie_across(lengths.device) else KernelAttention
    return kind(cache, lengths, longest=longest, num_heads=num_heads)


def _weighted_sums(places: torch.Tensor, rows: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Rows at `places` (sums, rows of each), times `weights` of the same shape: -> (sums, width of a row)."""
    return F.embedding_bag(places, rows, per_sample_weights=weights, mode="sum")


def _mask(lengths: torch.Tensor, width: int, dtype: torch.dtype) -> torch.Tensor:
    """What is added to scores, (n, 1, W): positions behind a row's length do not count."""
    behind = torch.arange(width, device=lengths.device) >= lengths.unsqueeze(-1)
    mask = torch.zeros(behind.shape, dtype=dtype, device=lengths.device)
    return mask.masked_fill_(behind, -torch.inf)[:, None]
