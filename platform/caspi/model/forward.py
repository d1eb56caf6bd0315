"""The model's two halves, run without padding where they can be: sound to audio embeddings, embeddings to states.

Legend: B utterances, R rows, S positions of a row, H hidden size, M mel bins, C seconds that hold audio.
"""

from collections.abc import Sequence
from typing import Any

import torch

from caspi.model import attention
from caspi.model.audio_tokens import FRAMES_PER_CHUNK, TOKENS_PER_CHUNK, tokens_of_frames
from caspi.model.batch import Batch
from caspi.model.features import Features


def encode(model: Any, features: Features) -> torch.Tensor:
    """Audio embeddings of all utterances, one after the other: (audio tokens of the batch, H).

    The native forward pass convolves every second of a padded batch. Here the seconds that hold audio are laid end to
    end as one long clip, with the attention windows given, so padding costs nothing: same numbers, a third less work
    on clips of mixed length.
    """
    encoder = model.model.audio_tower
    if encoder.config._attn_implementation == "sdpa":  # others do windows one by one, which is as right
        attention.prepare(encoder, attention.ENCODER)
    windows = attention_windows(features.num_frames, model.config.audio_config.n_window_infer // FRAMES_PER_CHUNK)
    told = attention.pieces(windows, features.seconds.device)
    output = model.model.get_audio_features(
        features.seconds.transpose(0, 1).flatten(1).unsqueeze(0),  # (C, M, 100) -> (1, M, 100 C)
        features.is_audio.flatten().unsqueeze(0),
        cu_seqlens=told["cu_seq_lens_q"],
        max_seqlen=told["max_length_q"],
        lengths=told["lengths"],
        return_dict=True,
    )
    return output.pooler_output


def decode(model: Any, embeddings: torch.Tensor, batch: Batch) -> torch.Tensor:
    """Hidden states of the decoder at every position of a batch: (R, S, H) -> (R, S, H)."""
    decoder = model.model.language_model
    if not batch.is_packed:
        # No attention mask: padding is on the right, and a causal model at a real position never sees what follows.
        return decoder(inputs_embeds=embeddings, use_cache=False).last_hidden_state
    attention.prepare(decoder, attention.DECODER)
    device = embeddings.device
    positions = torch.cat([torch.arange(length) for length in batch.lengths]).to(device)
    return decoder(
        inputs_embeds=embeddings,
        position_ids=positions.unsqueeze(0),
        attention_mask=dict.fromkeys(set(decoder.config.layer_types)),  # none: the pieces say it
        use_cache=False,
        **attention.pieces(batch.lengths, device),
    ).last_hidden_state


def attention_windows(frames: Sequence[int], chunks_per_window: int) -> list[int]:
    """Lengths in audio tokens of the encoder's attention windows: eight seconds each, and what is left of each clip."""
    window = chunks_per_window * TOKENS_PER_CHUNK
    lengths: list[int] = []
    for clip in frames:
        full, rest = divmod(tokens_of_frames(clip), window)
        lengths += [window] * full + [rest] * (rest > 0)
    return lengths
