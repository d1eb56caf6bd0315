"""The sizes in which Qwen3-ASR was released, as configs: what can be known of them without a download."""

from typing import Any

from transformers import Qwen3ASRConfig

VOCABULARY = 151_936

# (width, layers, heads) of the encoder, (hidden size, feed-forward width) of the decoder; all else they share.
_SIZES = {"1.7B": ((1024, 24, 16), (2048, 6144)), "0.6B": ((896, 18, 14), (1024, 3072))}

SIZES = tuple(_SIZES)


def released_config(size: str) -> Any:
    """The config of a released size, `1.7B` or `0.6B`."""
    (width, layers, heads), (hidden_size, feed_forward) = _SIZES[size]
    return Qwen3ASRConfig(
        audio_config={
            "model_type": "qwen3_asr_encoder",
            "d_model": width,
            "encoder_layers": layers,
            "encoder_attention_heads": heads,
            "encoder_ffn_dim": 4 * width,
            "output_dim": hidden_size,
        },
        text_config={
            "model_type": "qwen3",
            "vocab_size": VOCABULARY,
            "hidden_size": hidden_size,
            "intermediate_size": feed_forward,
            "num_hidden_layers": 28,
            "num_attention_heads": 16,
            "num_key_value_heads": 8,
            "head_dim": 128,
            "tie_word_embeddings": True,
        },
    )
