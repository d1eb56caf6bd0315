"""How many floating-point operations training takes, from the config alone; and how many weights there are.

A FLOP is one multiplication or one addition, so a matrix product of (a, b) and (b, c) is 2abc. Counted are products and
convolutions, which are all but a percent of the time; norms, activations and the optimizer are not. Attention counts
whole squares, as is usual (PaLM, arXiv 2204.02311), although a causal kernel skips half of them.
"""

from collections.abc import Iterable
from dataclasses import astuple, dataclass
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from transformers import Qwen3ASRForConditionalGeneration

from caspi.model.audio_tokens import TOKENS_PER_CHUNK, tokens_of_frames
from caspi.model.batch import Batch
from caspi.model.features import FRAMES_PER_CHUNK, NUM_MEL_BINS

_KERNEL = 3 * 3  # of each convolution, which halves both sides of its picture


class Parts(NamedTuple):
    """A number for each part of the model, in the order of the data."""

    convolutions: float
    encoder: float
    projector: float
    decoder: float
    lm_head: float  # its weights are the embedding


EVERYTHING = Parts(1, 1, 1, 1, 1)
"""The share of each part's weights that is trained, when all are."""

NOTHING = Parts(0, 0, 0, 0, 0)

ALL_LAYERS = Parts(0, 1, 0, 1, 0)
"""What gradient checkpointing can recompute."""

_PLACES = {
    "audio_tower.conv": "convolutions",
    "audio_tower.": "encoder",
    "multi_modal_projector.": "projector",
    "embed_tokens.": "lm_head",
    "lm_head.": "lm_head",
    "language_model.": "decoder",
}


@dataclass(frozen=True, slots=True)
class Workload:
    """What utterances give the model to compute, padding left out. Workloads of different utterances add up."""

    chunks: float = 0.0  # seconds that are begun: the convolutions compute them whole
    audio_tokens: float = 0.0
    audio_pairs: float = 0.0  # audio tokens times audio tokens, in each attention window
    tokens: float = 0.0  # of the decoder: prompt, audio, target
    token_pairs: float = 0.0  # tokens times tokens, in each utterance
    logits: float = 0.0  # positions whose logits are computed

    @classmethod
    def of(cls, config: Any, *, num_frames: np.ndarray, num_tokens: np.ndarray, num_logits: float) -> Self:
        """The workload of utterances with these mel frames and tokens, each (num_utterances,) of int64."""
        frames: Any = num_frames  # the function of a number does as well for an array
        audio_tokens = tokens_of_frames(frames)
        window = config.audio_config.n_window_infer // FRAMES_PER_CHUNK * TOKENS_PER_CHUNK
        full, rest = np.divmod(audio_tokens, window)
        return cls(
            chunks=float((-(-frames // FRAMES_PER_CHUNK)).sum()),
            audio_tokens=float(np.sum(audio_tokens)),
            audio_pairs=float((full * window**2 + rest**2).sum()),
            tokens=float(num_tokens.sum()),
            token_pairs=float((num_tokens**2).sum()),
            logits=num_logits,
        )

    @classmethod
    def of_batch(cls, config: Any, batch: Batch, *, with_alignment: bool) -> Self:
        """The workload of a batch, which should be on the CPU. The alignment loss takes logits of all audio."""
        num_frames: Any = batch.features.mask.sum(-1).numpy()
        audio_tokens = int(np.sum(tokens_of_frames(num_frames))) if with_alignment else 0
        return cls.of(
            config,
            num_frames=num_frames,
            num_tokens=batch.row_tokens().numpy(),
            num_logits=batch.num_supervised + audio_tokens,
        )

    def __add__(self, other: Self) -> Self:
        return type(self)(*(ours + theirs for ours, theirs in zip(astuple(self), astuple(other), strict=True)))


def forward_flops(config: Any, work: Workload) -> Parts:
    """FLOPs of one forward pass."""
    audio, text = config.audio_config, config.text_config
    width, channels = audio.d_model, audio.downsample_hidden_size
    queries, keys = text.num_attention_heads * text.head_dim, text.num_key_value_heads * text.head_dim
    layer = width * (4 * width + 2 * audio.encoder_ffn_dim)  # weights of a layer's products
    decoder_layer = text.hidden_size * (2 * queries + 2 * keys + 3 * text.intermediate_size)
    convolved, bins = _convolutions(channels)
    per_chunk = convolved + TOKENS_PER_CHUNK * channels * bins * width
    return Parts(
        convolutions=2 * work.chunks * per_chunk,
        encoder=2 * audio.encoder_layers * (work.audio_tokens * layer + work.audio_pairs * 2 * width),
        projector=2 * work.audio_tokens * width * (width + audio.output_dim),
        decoder=2 * text.num_hidden_layers * (work.tokens * decoder_layer + work.token_pairs * 2 * queries),
        lm_head=2 * work.logits * text.hidden_size * text.vocab_size,
    )


def training_flops(config: Any, work: Workload, *, trained: Parts = EVERYTHING, recomputed: Parts = NOTHING) -> float:
    """FLOPs of one forward and backward pass: three times the forward pass where everything is trained.

    The backward pass is once the forward pass for the gradients of weights, as far as they are trained, and once for
    those of inputs, where something trained lies before or in the part. Checkpointing computes layers a second time.

    Args:
        trained: the share of each part's weights that is.
        recomputed: the share of each part's layers that is.
    """
    total, is_reached = 0.0, False
    for flops, share, again in zip(forward_flops(config, work), trained, recomputed, strict=True):
        is_reached = is_reached or share > 0
        total += flops * (1 + share + is_reached * (1 + again))
    return total


def trained_shares(model: torch.nn.Module) -> Parts:
    """How much of each part of a model is trained."""
    return Parts(
        *(
            trained / max(1, every)
            for trained, every in zip(
                _count(_weights(model, trained_only=True)), _count(_weights(model, trained_only=False)), strict=True
            )
        )
    )


def num_parameters(config: Any) -> Parts:
    """Weights of each part, without building them."""
    return _count((name, weight.numel()) for name, weight in empty_model(config).named_parameters())


def empty_model(config: Any) -> Any:
    """A model without weights: names and shapes."""
    with torch.device("meta"):
        return Qwen3ASRForConditionalGeneration(config)


def _weights(model: torch.nn.Module, *, trained_only: bool) -> Iterable[tuple[str, int]]:
    for name, weight in model.named_parameters():
        if weight.requires_grad or not trained_only:
            yield name, weight.numel()


def _count(weights: Iterable[tuple[str, int]]) -> Parts:
    counts = dict.fromkeys(Parts._fields, 0)
    for name, size in weights:
        counts[next(part for place, part in _PLACES.items() if place in name)] += size
    return Parts(**counts)


def _convolutions(channels: int) -> tuple[int, int]:
    """Multiplications of the three convolutions over one second, and the mel bins that they leave."""
    bins, frames, total, inputs = NUM_MEL_BINS, FRAMES_PER_CHUNK, 0, 1
    for _ in range(3):
        bins, frames = (bins + 1) // 2, (frames + 1) // 2
        total += _KERNEL * inputs * channels * bins * frames
        inputs = channels
    return total, bins
