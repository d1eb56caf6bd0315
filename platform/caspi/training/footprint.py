"""How much memory a training worker needs, by arithmetic.

Weights, gradients and AdamW's moments are 16 bytes for each weight that is trained and 4 for each that is not. A
forward pass in bf16 makes a copy of the weights, and keeps for the backward pass what autograd asks for: counted here
layer by layer, per position, from what each operation saves. Of a part that nothing before it and nothing in it learns
it keeps nothing; a frozen part behind one that learns is counted as if it learned, which is a little too much. Logits
exist at supervised positions only, and become their own gradient.

Legend: H hidden size, Q and K widths of queries and of keys (or values), I width of the decoder's feed-forward layer; D
and F likewise of the encoder; V vocabulary.
"""

from collections import Counter
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np

from caspi.model.audio_tokens import TOKENS_PER_CHUNK
from caspi.model.batch import Batch
from caspi.model.features import FRAMES_PER_CHUNK, NUM_MEL_BINS
from caspi.model.flops import EVERYTHING, NOTHING, Parts, Workload, empty_model, trained_shares
from caspi.recipe.sections import Training
from caspi.training import eight_bit, parameters, sharding

GIB = 2**30

_FP32_BYTES = 4
# Of sharded layers, at once: the weights of one and of the next, the gradients of one and of that which is on its way.
_GATHERED = 4
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
class Learning:
    """What of a model learns, and what a worker keeps for it whatever it computes."""

    num_weights: int  # adapters included
    num_trained: int
    trained: Parts  # shares
    weights_bytes: float  # in fp32; of sharded layers a worker's share, and what is gathered of them
    states_bytes: float  # gradients, moments, averages

    @classmethod
    def of(cls, config: Any, training: Training, *, num_workers: int = 1) -> Self:
        """By building the model in the recipe's way, without its weights."""
        model = empty_model(config)
        parameters.prepare(model, training)
        parameters.groups(model, training.optimizer)  # which freezes what has no effect
        embedding = model.get_input_embeddings().weight
        num_weights = num_trained = 0
        weights = states = 0.0
        layer_sizes: Counter[str] = Counter()  # of layers that are gathered
        for name, parameter in model.named_parameters():
            size = parameter.numel()
            share = 1.0
            if training.sharding == "full" and (layer := sharding.layer_of(name)):
                share = 1 / num_workers
                layer_sizes[layer] += size
            num_weights += size
            weights += share * _FP32_BYTES * size
            if parameter.requires_grad:
                num_trained += size
                moments = 2 * _FP32_BYTES * size
                if training.optimizer.states == "8bit":
                    moments = eight_bit.moments_bytes(parameter, embedding=embedding)
                states += share * (moments + _FP32_BYTES * size * (1 + (training.ema is not None)))
        weights += _GATHERED * _FP32_BYTES * max(layer_sizes.values(), default=0)
        return cls(num_weights, num_trained, trained_shares(model), weights, states)


@dataclass(frozen=True, slots=True)
class Load:
    """The most that one micro-batch holds, padding and margins included."""

    FIELDS: ClassVar[tuple[str, ...]] = ("positions", "audio_tokens", "logits", "longest")

    positions: int  # tokens of the decoder
    audio_tokens: int
    logits: int
    longest: int = 0  # tokens of the longest row

    @classmethod
    def of_batch(cls, config: Any, batch: Batch, *, with_alignment: bool) -> Self:
        """What a batch holds, which should be on the CPU."""
        work = Workload.of_batch(config, batch, with_alignment=with_alignment)
        longest = max(batch.lengths)
        return cls(batch.num_tokens, int(work.audio_tokens), int(work.logits), longest)

    def as_array(self) -> np.ndarray:
        """(fields of Load,)"""
        return np.array([getattr(self, name) for name in self.FIELDS])


@dataclass(frozen=True, slots=True)
class Footprint:
    """Bytes of one worker's device."""

    weights: float  # with the copy in the arithmetic's precision
    states: float  # gradients, moments, averages
    activations: float
    logits: float
    rest: float

    @property
    def base(self) -> float:
        """Whatever is computed."""
        return self.weights + self.states + self.rest

    @property
    def growth(self) -> float:
        """For the micro-batch."""
        return self.activations + self.logits

    @property
    def total(self) -> float:
        return self.base + self.growth


def footprint(
    config: Any, load: Load, learning: Learning, *, precision: str = "bf16", recomputed: Parts = NOTHING
) -> Footprint:
    """What training takes at most.

    Args:
        load: of the largest micro-batch.
        precision: bf16 or fp32, of the arithmetic.
        recomputed: the share of each part's layers that is, by gradient checkpointing.
    """
    copy = 2 * learning.num_weights if precision == "bf16" else 0
    kept = activations(config, load, precision=precision, trained=learning.trained, recomputed=recomputed)
    return Footprint(
        weights=learning.weights_bytes + copy,
        states=learning.states_bytes,
        activations=kept,
        logits=float(_SAVED[precision].element * load.logits * config.text_config.vocab_size),
        rest=_SYSTEM + _BUFFERS,
    )


def activations(
    config: Any, load: Load, *, precision: str, trained: Parts = EVERYTHING, recomputed: Parts = NOTHING
) -> float:
    """Bytes that the backward pass needs of the forward pass, without logits.

    Of a layer that is recomputed its input alone, and of one such layer at a time all.
    """
    saved, audio, text = _SAVED[precision], config.audio_config, config.text_config
    queries, keys = text.num_attention_heads * text.head_dim, text.num_key_value_heads * text.head_dim
    decoder = load.positions * _weighted(saved.decoder, (text.hidden_size, queries, keys, text.intermediate_size))
    decoder_input = 4 * load.positions * text.hidden_size
    kept = load.positions * _LAST_NORM_BYTES * text.hidden_size
    kept += text.num_hidden_layers * _mixed(recomputed.decoder, decoder_input, decoder)
    largest = decoder * (recomputed.decoder > 0)
    is_heard = trained.convolutions + trained.encoder > 0
    if is_heard:
        encoder = load.audio_tokens * _weighted(saved.encoder, (audio.d_model, audio.encoder_ffn_dim))
        encoder_input = saved.element * load.audio_tokens * audio.d_model
        kept += audio.encoder_layers * _mixed(recomputed.encoder, encoder_input, encoder)
        kept += _convolutions(audio, load, saved.element, are_trained=trained.convolutions == 1)
        largest = max(largest, encoder * (recomputed.encoder > 0))
    if is_heard or trained.projector:
        kept += load.audio_tokens * saved.projector * audio.d_model
    return kept + largest


def _convolutions(audio: Any, load: Load, element: int, *, are_trained: bool) -> float:
    """Of each convolution its output, before and after the activation; of the last one in another order too.

    Adapters stand beside the product that follows, and need what goes into that.
    """
    bins, frames, pixels = NUM_MEL_BINS, FRAMES_PER_CHUNK, 0
    for _ in range(3):
        bins, frames = bins // 2, -(-frames // 2)
        pixels += 2 * bins * frames * are_trained
    return element * (pixels + bins * frames) * audio.downsample_hidden_size * load.audio_tokens / TOKENS_PER_CHUNK


def _mixed(share: float, first: float, second: float) -> float:
    return share * first + (1 - share) * second


def _weighted(bytes_each: tuple[int, ...], widths: tuple[int, ...]) -> int:
    return sum(each * width for each, width in zip(bytes_each, widths, strict=True))
