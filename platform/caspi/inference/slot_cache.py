"""Keys and values of clips that are being decoded: one row each, in memory that is reserved once.

Legend: L layers, R rows, W positions of a row, K key and value heads, D width of a head.

Each layer has a buffer for so many positions; rows and their width are only a way to look at it. There is one buffer
more than layers: to change the width, each layer's rows are copied into the spare one, which becomes that layer's, so
memory never holds two caches.
"""

from typing import Any

import torch


class SlotCache:
    """A cache of `num_positions` positions, divided into rows of `width`. The first `num_used` rows are in use.

    It takes `num_positions * bytes_per_position(config, dtype)` bytes, and never more.
    """

    def __init__(self, config: Any, *, num_positions: int, dtype: torch.dtype, device: torch.device) -> None:
        """`config`: of the decoder."""
        self._shape = (2, config.num_key_value_heads, config.head_dim)
        # Zeros: what no row has written yet gets a weight of zero, which does not hide what is not a number.
        self._buffers = [
            torch.zeros(num_positions, *self._shape, dtype=dtype, device=device)
            for _ in range(config.num_hidden_layers + 1)
        ]
        self.num_positions = num_positions
        self.dtype = dtype
        self.num_used = 0
        self.width = num_positions

    @staticmethod
    def bytes_per_position(config: Any, dtype: torch.dtype) -> int:
        """What one position takes, in all layers and the spare buffer."""
        heads = 2 * config.num_key_value_heads * config.head_dim
        return int((config.num_hidden_layers + 1) * heads * dtype.itemsize)

    @property
    def num_rows(self) -> int:
        """Rows that there is room for, at the present width."""
        return self.num_positions // self.width

    def layer(self, number: int) -> torch.Tensor:
        """All rows of a layer, (R, W, 2, K, D): of each position the keys, then the values."""
        return self._rows(self._buffers[number], self.width)

    def make_room(self, num_rows: int, width: int) -> None:
        """See to `num_rows` rows of `width`, those in use included, of which none may be longer."""
        assert num_rows * width <= self.num_positions
        if width <= self.width and num_rows <= self.num_rows:
            return
        kept = min(width, self.width)
        for number in range(len(self._buffers) - 1):
            before, spare = self._buffers[number], self._buffers[-1]
            if self.num_used:
                self._rows(spare, width)[: self.num_used, :kept] = self._rows(before, self.width)[
                    : self.num_used, :kept
                ]
            self._buffers[number], self._buffers[-1] = spare, before
        self.width = width

    def remove(self, row: int) -> None:
        """Free a row. The last one in use takes its place."""
        self.num_used -= 1
        if row != self.num_used:
            for number in range(len(self._buffers) - 1):
                rows = self.layer(number)
                rows[row] = rows[self.num_used]

    def _rows(self, buffer: torch.Tensor, width: int) -> torch.Tensor:
        num_rows = self.num_positions // width
        return buffer[: num_rows * width].view(num_rows, width, *self._shape)
