"""How much memory a training worker needs, by arithmetic.

Weights, gradients and AdamW's moments are 16 bytes for each weight that is trained and 4 for each that is not. A
forward pass in bf16 makes a copy of the weights, and keeps for the backward pass what autograd asks for: counted here
layer by layer, per position, from what each operation saves. Logits exist at supervised positions only, and become
their own gradient.

Legend: H hidden size, Q and K widths of queries and of keys (or values), I width of the decoder's feed-forward layer; D
and F likewise of the encoder; V vocabulary.
"""

from dataclasses import dataclass
from typing import Any

from caspi.model.audio_tokens import TOKENS_PER_CHUNK
from caspi.model.features import FRAMES_PER_CHUNK, NUM_MEL_BINS
from caspi.model.flops import NOTHING, Parts

GIB = 2**30

_STATE_BYTES = 12  # gradient and two moments
_WEIGHT_BYTES = 4
_LAST_NORM_BYTES = 8  # per position and H: the decoder's
_BUFFERS = 2 * 64 * 2**20  # the reduction's, see step.py
_SYSTEM = 1.5 * GIB  # CUDA's context, NCCL, cuBLAS's workspace, what the allocator cannot use


@dataclass(frozen=True, slots=True)
class _Saved:
    """Bytes that autograd keeps for each element of a width, in one layer."""

    decoder: tuple[int, int, int, int]  # per position, for each of H, Q, K, I
    encoder: tuple[int, int]  # per audio token, for each of D, F
    projector: int  # per audio token and D: with the encoder's last norm
    element: int  # between convolutions, and between the encoder's layers


# With autocast, norms and the decoder's residuals stay in fp32, and each product has its own copy of its input in bf16.
_SAVED = {
    "bf16": _Saved(decoder=(26, 10, 10, 8), encoder=(26, 4), projector=10, element=2),
    "fp32": _Saved(decoder=(24, 16, 16, 16), encoder=(36, 8), projector=16, element=4),
}


@dataclass(frozen=True, slots=True)
class Load:
    """The most that one micro-batch holds, padding and margins included."""

    positions: int  # tokens of the decoder
    audio_tokens: int
    logits: int


@dataclass(frozen=True, slots=True)
class Footprint:
    """Bytes of one worker's device."""

    weights: float  # with the copy in the arithmetic's precision
    optimizer: float  # gradients and moments
    activations: float
    logits: float
    rest: float

    @property
    def total(self) -> float:
        return self.weights + self.optimizer + self.activations + self.logits + self.rest


def footprint(
    config: Any,
    load: Load,
    *,
    num_weights: float,
    num_trained: float,
    precision: str = "bf16",
    recomputed: Parts = NOTHING,
) -> Footprint:
    """What training takes at most.

    Args:
        load: of the largest micro-batch.
        num_trained: of `num_weights`; LoRA's own weights count as both.
        precision: bf16 or fp32, of the arithmetic.
        recomputed: the share of each part's layers that is, by gradient checkpointing.
    """
    copy = 2 if precision == "bf16" else 0
    return Footprint(
        weights=(_WEIGHT_BYTES + copy) * num_weights,
        optimizer=_STATE_BYTES * num_trained,
        activations=activations(config, load, precision=precision, recomputed=recomputed),
        logits=float(_SAVED[precision].element * load.logits * config.text_config.vocab_size),
        rest=_SYSTEM + _BUFFERS,
    )


def activations(config: Any, load: Load, *, precision: str, recomputed: Parts) -> float:
    """Bytes that the backward pass needs of the forward pass, without logits.

    Of a layer that is recomputed its input alone, and of one such layer at a time all.
    """
    saved, audio, text = _SAVED[precision], config.audio_config, config.text_config
    queries, keys = text.num_attention_heads * text.head_dim, text.num_key_value_heads * text.head_dim
    decoder = load.positions * _weighted(saved.decoder, (text.hidden_size, queries, keys, text.intermediate_size))
    encoder = load.audio_tokens * _weighted(saved.encoder, (audio.d_model, audio.encoder_ffn_dim))
    once = _convolutions(audio, load, saved.element) + load.audio_tokens * saved.projector * audio.d_model
    once += load.positions * _LAST_NORM_BYTES * text.hidden_size
    encoder_input = saved.element * load.audio_tokens * audio.d_model
    decoder_input = 4 * load.positions * text.hidden_size
    layers = audio.encoder_layers * _mixed(recomputed.encoder, encoder_input, encoder)
    layers += text.num_hidden_layers * _mixed(recomputed.decoder, decoder_input, decoder)
    at_once = max(encoder * (recomputed.encoder > 0), decoder * (recomputed.decoder > 0))
    return once + layers + at_once


def _convolutions(audio: Any, load: Load, element: int) -> float:
    """Of each convolution its output, before and after the activation; of the last one in another order too."""
    bins, frames, pixels = NUM_MEL_BINS, FRAMES_PER_CHUNK, 0
    for _ in range(3):
        bins, frames = bins // 2, -(-frames // 2)
        pixels += 2 * bins * frames
    return element * (pixels + bins * frames) * audio.downsample_hidden_size * load.audio_tokens / TOKENS_PER_CHUNK


def _mixed(share: float, first: float, second: float) -> float:
    return share * first + (1 - share) * second


def _weighted(bytes_each: tuple[int, ...], widths: tuple[int, ...]) -> int:
    return sum(each * width for each, width in zip(bytes_each, widths, strict=True))
