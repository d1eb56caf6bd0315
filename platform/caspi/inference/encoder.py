"""The encoder's forward pass for transcribing: sound to audio embeddings, in less memory and time than training needs.

The modules are the model's own, but called from here. What the first convolution makes is fifty times the size of the
spectrogram: 6 MB for a second of the released models. transformers makes it of all seconds at once; here a few go
through all three convolutions before the next ones, so that it stays in the processor's cache.

Legend: C seconds that hold audio, M mel bins, T audio tokens of all clips, E the encoder's width, H hidden size.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from caspi.inference.packing import PackedConv2d
from caspi.model import attention
from caspi.model.audio_tokens import FRAMES_PER_CHUNK, TOKENS_PER_CHUNK, tokens_of_frames
from caspi.model.features import Features
from caspi.model.forward import attention_windows

_SECONDS_AT_ONCE = {"cpu": 8, "cuda": 128}


def encode(model: Any, features: Features) -> torch.Tensor:
    """Audio embeddings of all clips, one after the other, (T, H): those of `caspi.model.forward.encode`."""
    encoder, device = model.model.audio_tower, features.seconds.device
    if encoder.config._attn_implementation == "sdpa":
        attention.prepare(encoder, attention.ENCODER)
    windows = attention_windows(features.num_frames, model.config.audio_config.n_window_infer // FRAMES_PER_CHUNK)
    told = attention.pieces(windows, device)
    seconds = features.seconds.unsqueeze(1).split(_SECONDS_AT_ONCE.get(device.type, 8))  # each (seconds, 1, M, 100)
    hidden = torch.cat([_convolve(encoder, each) for each in seconds])  # (C, 13, E)
    places = encoder.positional_embedding.positional_embedding[: hidden.shape[1]]
    heard = torch.from_numpy(_heard(features.num_frames)).to(device)
    hidden = (hidden + places.to(hidden.dtype)).flatten(0, 1)[heard]  # (T, E)
    for layer in encoder.layers:
        hidden, *_ = layer(hidden, told["cu_seq_lens_q"], max_seqlen=told["max_length_q"], lengths=told["lengths"])
    embeddings: torch.Tensor = model.model.multi_modal_projector(encoder.ln_post(hidden))
    return embeddings


def _convolve(encoder: Any, seconds: torch.Tensor) -> torch.Tensor:
    """Spectrograms of seconds, (seconds, 1, M, 100) -> (seconds, 13, E)"""
    hidden = seconds
    for convolution in (encoder.conv2d1, encoder.conv2d2, encoder.conv2d3):
        if isinstance(convolution, PackedConv2d):
            hidden = convolution(hidden, activation="gelu")
        else:
            hidden = F.gelu(convolution(hidden))
    projected: torch.Tensor = encoder.conv_out(hidden.permute(0, 3, 1, 2).flatten(2))
    return projected


def _heard(num_frames: Sequence[int]) -> np.ndarray:
    """Which tokens of all seconds hear audio, (T,): those of the last second of a clip do only as far as it reaches."""
    num_tokens = [
        tokens_of_frames(min(clip - first, FRAMES_PER_CHUNK))
        for clip in num_frames
        for first in range(0, clip, FRAMES_PER_CHUNK)
    ]
    return np.flatnonzero(np.arange(TOKENS_PER_CHUNK) < np.array(num_tokens)[:, np.newaxis])
