"""The decoder's forward pass for generating: prompts without padding, then one token for each row, over a `SlotCache`.

The modules are the model's own, adapters included, but called from here. transformers' forward pass finds out anew for
each token which mask, which cache and which attention there is, which takes as long as a small model's arithmetic.

Legend: n rows in use, T tokens of all prompts, H hidden size, D width of a head, V vocabulary.
"""

from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from caspi.inference.row_attention import keys_lie_across, row_attention
from caspi.inference.slot_cache import SlotCache
from caspi.model import attention

Places = tuple[torch.Tensor, torch.Tensor]  # rows and positions of the cache, one of each for every token

# What a layer, by number and by module, hears: queries, keys, values (tokens, heads, D) -> (tokens, heads, D).
Attend = Callable[[int, Any, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


class Decoder:
    """Rows of tokens in a model's decoder. New rows come behind the others; where one leaves, the last takes its place.

    Not for models with sliding windows, which Qwen3-ASR's are not.
    """

    def __init__(self, model: Any, *, num_positions: int) -> None:
        """`num_positions`: how many the cache has room for, rows times the longest of them."""
        self._decoder = model.model.language_model
        self._head = model.lm_head
        self._config = self._decoder.config
        self._num_positions = num_positions
        self._device = next(model.parameters()).device
        self._cache: SlotCache | None = None
        self._rotation = torch.empty(0)
        self._lengths = np.zeros(0, np.int64)  # of each row in the cache, (n,)

    @property
    def num_rows(self) -> int:
        """Rows in use."""
        return len(self._lengths)

    def prefill(self, embeddings: torch.Tensor, lengths: Sequence[int], *, width: int) -> torch.Tensor:
        """Add rows, and compute the logits of what follows each: -> (rows added, V).

        Args:
            embeddings: of the prompts, one after the other, (T, H).
            lengths: of the prompts, in tokens.
            width: positions that the longest row will have at its end, of these and those that are in use.
        """
        self._make_room(self.num_rows + len(lengths), width)
        places = _places(lengths, first_row=self.num_rows, device=self._device)
        told = attention.pieces(lengths, self._device)

        def attend(number: int, layer: Any, *parts: torch.Tensor) -> torch.Tensor:
            # each (T, heads, D) -> (1, heads, T, D)
            query, key, value = (part.transpose(0, 1).unsqueeze(0) for part in parts)
            heard, _ = attention.attend(layer, query, key, value, None, scaling=layer.scaling, is_causal=True, **told)
            return heard.squeeze(0)

        hidden = self._forward(embeddings, places, attend)
        self._lengths = np.concatenate([self._lengths, lengths])
        ends = torch.tensor(list(accumulate(lengths)), device=self._device) - 1
        return self._logits(hidden[ends])

    def step(self, tokens: torch.Tensor) -> torch.Tensor:
        """Add a token to each row and compute the logits of what follows: (n,) -> (n, V)."""
        assert self._cache is not None and len(tokens) == self.num_rows
        rows = torch.arange(self.num_rows, device=self._device)
        positions = torch.from_numpy(self._lengths).to(self._device)
        self._lengths = self._lengths + 1
        attend_row = row_attention(
            self._cache, positions + 1, longest=int(self._lengths.max()), num_heads=self._config.num_attention_heads
        )

        def attend(number: int, layer: Any, queries: torch.Tensor, *_: torch.Tensor) -> torch.Tensor:
            return attend_row(number, queries, scale=layer.scaling)

        embeddings = self._decoder.embed_tokens(tokens.to(self._device))
        return self._logits(self._forward(embeddings, (rows, positions), attend))

    def remove(self, row: int) -> None:
        """Let a row go. The last one takes its place."""
        assert self._cache is not None
        if row != self.num_rows - 1:
            self._cache.copy_row(self.num_rows - 1, row)
        self._lengths[row] = self._lengths[-1]
        self._lengths = self._lengths[:-1]

    def _forward(self, hidden: torch.Tensor, places: Places, attend: Attend) -> torch.Tensor:
        """Hidden states above all layers of tokens that go to these places of the cache: (tokens, H) -> (tokens, H)."""
        assert self._cache is not None
        cos, sin = (part.unsqueeze(1) for part in self._rotation[:, places[1]])  # each (tokens, 1, D)
        shape = (len(hidden), -1, self._config.head_dim)
        for number, layer in enumerate(self._decoder.layers):
            part = layer.self_attn
            normed = _norm(layer.input_layernorm, hidden)
            queries = _norm(part.q_norm, part.q_proj(normed).view(shape))
            keys = _norm(part.k_norm, part.k_proj(normed).view(shape))
            turned = torch.cat((queries, keys), dim=1)
            turned = torch.addcmul(turned * cos, turned.roll(self._config.head_dim // 2, dims=-1), sin)
            queries, keys = turned.to(self._cache.dtype).split((queries.shape[1], keys.shape[1]), dim=1)
            values = part.v_proj(normed).view(shape).to(self._cache.dtype)
            self._cache.keys(number)[places], self._cache.values(number)[places] = keys, values
            heard = attend(number, part, queries, keys, values)
            hidden = hidden + part.o_proj(heard.reshape(len(hidden), -1).to(normed.dtype))
            hidden = hidden + layer.mlp(_norm(layer.post_attention_layernorm, hidden))
        return hidden

    def _logits(self, hidden: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self._head(_norm(self._decoder.norm, hidden))
        return logits

    def _make_room(self, num_rows: int, width: int) -> None:
        """See to a cache for so many rows. A row above its size has a larger one for as long as it is there."""
        if self._cache is None or not self.num_rows:
            num_positions = max(self._num_positions, num_rows * width)
            dtype = _cache_dtype(self._decoder, self._device)
            if self._cache is None or (self._cache.num_positions, self._cache.dtype) != (num_positions, dtype):
                self._cache = None  # the old one goes before the new one comes
                self._cache = SlotCache(
                    self._config,
                    num_positions=num_positions,
                    dtype=dtype,
                    device=self._device,
                    keys_across=keys_lie_across(self._device),
                )
        self._cache.make_room(num_rows, width, keep=self.num_rows)
        if self._rotation.numel() == 0 or self._rotation.shape[1] < width:
            self._rotation = _rotation(self._decoder, self._cache.num_positions, self._device)


def _norm(norm: Any, hidden: torch.Tensor) -> torch.Tensor:
    """Root mean square norm, in one call where the types allow it."""
    if hidden.dtype != norm.weight.dtype:  # with autocast
        normed: torch.Tensor = norm(hidden)
        return normed
    return F.rms_norm(hidden, norm.weight.shape, norm.weight, norm.variance_epsilon)


def _rotation(decoder: Any, num_positions: int, device: torch.device) -> torch.Tensor:
    """Cosines and sines of RoPE at every position, (2, positions, D).

    The first half of the sines is negative: they multiply what is turned after its halves have changed places.
    """
    positions = torch.arange(num_positions, device=device).unsqueeze(0)
    like = torch.empty(0, dtype=decoder.embed_tokens.weight.dtype, device=device)
    cos, sin = (part.squeeze(0) for part in decoder.rotary_emb(like, positions))
    half = sin.shape[-1] // 2
    return torch.stack((cos, torch.cat((-sin[:, :half], sin[:, half:]), dim=-1)))


def _places(lengths: Sequence[int], *, first_row: int, device: torch.device) -> Places:
    """Of the tokens of prompts that lie end to end."""
    rows = np.repeat(np.arange(first_row, first_row + len(lengths)), lengths)
    positions = np.concatenate([np.arange(length) for length in lengths])
    return torch.from_numpy(rows).to(device), torch.from_numpy(positions).to(device)


def _cache_dtype(decoder: Any, device: torch.device) -> torch.dtype:
    """That of the arithmetic. On a CPU fp32 always: sums of rows are in the type of the rows."""
    if device.type == "cpu":
        return torch.float32
    if torch.is_autocast_enabled(device.type):
        return torch.get_autocast_dtype(device.type)
    dtype: torch.dtype = decoder.embed_tokens.weight.dtype
    return dtype
