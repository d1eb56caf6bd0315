"""Attention by weighted sums hears what PyTorch's attention hears."""

from types import SimpleNamespace

import pytest
import torch

from caspi.inference.row_attention import KernelAttention, RowAttention, SumAttention
from caspi.inference.slot_cache import SlotCache

NUM_POSITIONS, NUM_LAYERS = 400, 2


def filled(*, num_key_heads: int, keys_across: bool) -> SlotCache:
    """A cache of ten rows; the same numbers, however they lie."""
    config = SimpleNamespace(num_key_value_heads=num_key_heads, head_dim=24, num_hidden_layers=NUM_LAYERS)
    cache = SlotCache(
        config,
        num_positions=NUM_POSITIONS,
        dtype=torch.float32,
        device=torch.device("cpu"),
        keys_across=keys_across,
    )
    cache.make_room(10, 39, keep=0)
    random = torch.Generator().manual_seed(0)
    for layer in range(NUM_LAYERS):
        for part in (cache.keys(layer), cache.values(layer)):
            part.copy_(torch.randn(part.shape, generator=random))
    return cache


@pytest.mark.parametrize("num_key_heads", [6, 3, 1])
@pytest.mark.parametrize("lengths", [[1], [39], [5, 17, 16, 1], [30, 39, 2, 33]])
def test_sums_hear_what_the_kernel_hears(lengths: list[int], num_key_heads: int) -> None:
    heard = []
    queries = torch.randn(len(lengths), 6, 24, generator=torch.Generator().manual_seed(1))
    for kind, keys_across in ((KernelAttention, False), (SumAttention, True)):
        cache = filled(num_key_heads=num_key_heads, keys_across=keys_across)
        attend: RowAttention = kind(cache, torch.tensor(lengths), longest=max(lengths), num_heads=6)
        heard.append([attend(layer, queries, scale=0.3) for layer in range(NUM_LAYERS)])
    torch.testing.assert_close(heard[1], heard[0])
    assert not torch.equal(heard[0][0], heard[0][1])


def test_rows_stay_what_they_are_when_they_get_wider() -> None:
    caches = [filled(num_key_heads=3, keys_across=across) for across in (False, True)]
    before = caches[0].keys(1)[:4].clone(), caches[0].values(1)[:4].clone()
    for cache in caches:
        cache.make_room(4, 90, keep=4)
        cache.copy_row(3, 0)
        for rows, kept in zip((cache.keys(1), cache.values(1)), before, strict=True):
            assert torch.equal(rows[1:4, :39], kept[1:])
            assert torch.equal(rows[0, :39], kept[3])
