"""Keys and values of clips that are being decoded: one row each, in memory that is reserved once.

Legend: L layers, R rows, W positions of a row, K key and value heads, D width of a head.

Each layer has a buffer for so many keys and another one for the values; rows and their width are only a way to look at
them. There is one buffer more: to change the width, rows are copied into the spare one, which takes the place of the
one that they came from, so memory never holds two caches.
"""

from typing import Any

import torch


class SlotCache:
    """A cache of `num_positions` positions, divided into rows of `width`. Whoever uses it knows which rows are in use.

    It takes `num_positions * bytes_per_position(config, dtype)` bytes, and never more.
    """

    def __init__(
        self, config: Any, *, num_positions: int, dtype: torch.dtype, device: torch.device, keys_across: bool = False
    ) -> None:
        """Reserve it.

        Args:
            config: of the decoder.
            keys_across: whether each number of a key lies beside the same number of the keys before and after it in
                its row, (R, K, D, W), instead of each key by itself, (R, W, K, D).
        """
        self.num_heads = config.num_key_value_heads
        self.head_dim = config.head_dim
        self._keys_across = keys_across
        # Zeros: what no row has written yet gets a weight of zero, which does not hide what is not a number.
        self._buffers = [
            torch.zeros(num_positions * self.num_heads * self.head_dim, dtype=dtype, device=device)
            for _ in range(2 * config.num_hidden_layers + 1)
        ]
        self.num_positions = num_positions
        self.dtype = dtype
        self.width = num_positions

    @staticmethod
    def bytes_per_position(config: Any, dtype: torch.dtype) -> int:
        """What one position takes, in all layers and the spare buffer."""
        heads = config.num_key_value_heads * config.head_dim
        return int((2 * config.num_hidden_layers + 1) * heads * dtype.itemsize)

    @property
    def num_rows(self) -> int:
        """Rows that there is room for, at the present width."""
        return self.num_positions // self.width

    def keys(self, layer: int) -> torch.Tensor:
        """Of all rows of a layer, (R, W, K, D), however they lie in memory."""
        return self._rows(2 * layer, self.width)

    def values(self, layer: int) -> torch.Tensor:
        """Of all rows of a layer, (R, W, K, D)."""
        return self._rows(2 * layer + 1, self.width)

    def make_room(self, num_rows: int, width: int, *, keep: int) -> None:
        """See to `num_rows` rows of `width`. The first `keep` rows stay what they are, as far as they are that wide."""
        assert num_rows * width <= self.num_positions
        if width <= self.width and num_rows <= self.num_rows:
            return
        kept = min(width, self.width)
        for number in range(len(self._buffers) - 1):
            rows = self._rows(number, self.width)[:keep, :kept]
            self._buffers[number], self._buffers[-1] = self._buffers[-1], self._buffers[number]
            self._rows(number, width)[:keep, :kept] = rows
        self.width = width

    def copy_row(self, source: int, target: int) -> None:
        """Make a row what another one is."""
        for number in range(len(self._buffers) - 1):
            rows = self._rows(number, self.width)
            rows[target] = rows[source]

    def _rows(self, number: int, width: int) -> torch.Tensor:
        """A buffer seen as rows of a width, (R, W, K, D)."""
        num_rows = self.num_positions // width
        used = self._buffers[number][: num_rows * width * self.num_heads * self.head_dim]
        if self._keys_across and number % 2 == 0:
            return used.view(num_rows, self.num_heads, self.head_dim, width).permute(0, 3, 1, 2)
        return used.view(num_rows, width, self.num_heads, self.head_dim)
