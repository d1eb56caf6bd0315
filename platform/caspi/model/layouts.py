"""The two layouts of Qwen3-ASR checkpoints, as maps between names and between configs. Pure: no file is touched.

The *native* one is transformers' own (`Qwen/Qwen3-ASR-1.7B-hf`), and what Caspi trains and keeps. The *original* one
(`Qwen/Qwen3-ASR-1.7B`) is what the `qwen-asr` package and most serving engines read: everything lies below `thinker`,
and the output layer is stored although it is the embedding once more.
"""

from collections.abc import Mapping
from typing import Any

from caspi.errors import ModelError

EMBEDDING = "model.language_model.embed_tokens.weight"
OUTPUT_LAYER = "lm_head.weight"  # the embedding again, in every release

# Native, original. The first prefix that fits counts.
_PREFIXES = (
    ("model.multi_modal_projector.linear_1.", "thinker.audio_tower.proj1."),
    ("model.multi_modal_projector.linear_2.", "thinker.audio_tower.proj2."),
    ("model.audio_tower.", "thinker.audio_tower."),
    ("model.language_model.", "thinker.model."),
    ("lm_head.", "thinker.lm_head."),
)

# What the original code reads of a config, and what it takes where the file says nothing. transformers' own defaults
# are others: a config that was saved as a difference would become another model.
_ENCODER = {
    "num_mel_bins": 128,
    "encoder_layers": 32,
    "encoder_attention_heads": 20,
    "encoder_ffn_dim": 5120,
    "d_model": 1280,
    "dropout": 0.0,
    "attention_dropout": 0.0,
    "activation_function": "gelu",
    "activation_dropout": 0.0,
    "scale_embedding": False,
    "initializer_range": 0.02,
    "n_window": 100,
    "n_window_infer": 400,
    "output_dim": 3584,
    "downsample_hidden_size": 480,
}
_DECODER = {
    "vocab_size": 151936,
    "hidden_size": 4096,
    "intermediate_size": 22016,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "head_dim": 128,
    "hidden_act": "silu",
    "max_position_embeddings": 128000,
    "initializer_range": 0.02,
    "rms_norm_eps": 1e-6,
    "use_cache": True,
    "tie_word_embeddings": False,
    "attention_bias": False,
    "attention_dropout": 0.0,
    "pad_token_id": None,
    "bos_token_id": None,
    "eos_token_id": None,
}
_ROPE_THETA = 5_000_000.0
_WHOLE = ("pad_token_id", "eos_token_id", "timestamp_token_id", "support_languages")  # at the top of both


def native_name(original: str) -> str:
    """The native name of a tensor. One that the original layout does not have stays as it is."""
    for native, prefix in _PREFIXES:
        if original.startswith(prefix):
            return native + original.removeprefix(prefix)
    return original


def original_name(native: str) -> str:
    """The original layout's name of a tensor. One that the native layout does not have stays as it is."""
    for prefix, original in _PREFIXES:
        if native.startswith(prefix):
            return original + native.removeprefix(prefix)
    return native


def is_original(config: Mapping[str, Any]) -> bool:
    """Whether a config.json is of the original layout. transformers silently takes it for the default 1.7B."""
    return "thinker_config" in config


def native_config(original: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of transformers' Qwen3ASRConfig for a config of the original layout.

    Its mixture-of-experts and M-RoPE fields are dropped: the releases carry the former without having experts, and
    where audio and text share one position, M-RoPE is plain RoPE. `support_languages` is kept for the way back.

    Raises:
        ModelError: a forced aligner, a kind of RoPE that changes positions, or a section that is not there.
    """
    thinker = original["thinker_config"]
    if "classify_num" in thinker:
        raise ModelError("this is Qwen3's forced aligner (classify_num): it marks times and transcribes nothing")
    missing = [key for key in ("audio_config", "text_config", "audio_token_id") if key not in thinker]
    if missing:
        raise ModelError(f"thinker_config lacks {', '.join(missing)}")
    audio, text = thinker["audio_config"], thinker["text_config"]
    decoder = {key: text.get(key, default) for key, default in _DECODER.items()}
    native = {
        "architectures": ["Qwen3ASRForConditionalGeneration"],
        "audio_config": {
            "model_type": "qwen3_asr_encoder",
            **{key: audio.get(key, default) for key, default in _ENCODER.items()},
        },
        "text_config": {"model_type": "qwen3", **decoder, "rope_parameters": _rope_parameters(text)},
        "audio_token_id": thinker["audio_token_id"],
        "initializer_range": thinker.get("initializer_range", 0.02),
        "tie_word_embeddings": decoder["tie_word_embeddings"],
        **{key: original[key] for key in _WHOLE if key in original},
    }
    dtype = thinker.get("dtype") or thinker.get("torch_dtype") or original.get("dtype") or original.get("torch_dtype")
    return native | ({"dtype": dtype} if dtype else {})


def original_config(native: Mapping[str, Any], *, audio_start_id: int, audio_end_id: int) -> dict[str, Any]:
    """A config of the original layout for all fields of transformers' Qwen3ASRConfig.

    Raises:
        ModelError: a kind of RoPE that changes positions.
    """
    audio, text = native["audio_config"], native["text_config"]
    rope = _rope_parameters(text)
    dtype = {"dtype": native["dtype"]} if native.get("dtype") else {}
    return {
        "architectures": ["Qwen3ASRForConditionalGeneration"],
        "model_type": "qwen3_asr",
        **{key: native[key] for key in _WHOLE if key in native},
        **dtype,
        "thinker_config": {
            "architectures": ["Qwen3ASRThinkerForConditionalGeneration"],
            "model_type": "qwen3_asr_thinker",
            "audio_config": {
                "model_type": "qwen3_asr_audio_encoder",
                **{key: audio[key] for key in _ENCODER},
                "max_source_positions": 1500,
                "conv_chunksize": 500,
            },
            "text_config": {
                "model_type": "qwen3",
                **{key: text[key] for key in _DECODER},
                "rope_theta": rope["rope_theta"],
                "rope_scaling": _m_rope(text["head_dim"]),
            },
            "audio_token_id": native["audio_token_id"],
            "audio_start_token_id": audio_start_id,
            "audio_end_token_id": audio_end_id,
            "initializer_range": native["initializer_range"],
            **dtype,
        },
    }


def _rope_parameters(text: Mapping[str, Any]) -> dict[str, Any]:
    """Base and type of the position embedding, wherever a config of either layout or age has them."""
    found = {
        "rope_theta": text.get("rope_theta", _ROPE_THETA),
        **(text.get("rope_scaling") or {}),
        **(text.get("rope_parameters") or {}),
    }
    kind = found.get("rope_type", found.get("type", "default"))
    if kind not in ("default", "mrope"):
        raise ModelError(f"text_config: RoPE of type {kind!r}; expected 'default', as in Qwen3-ASR's releases")
    return {"rope_type": "default", "rope_theta": found["rope_theta"]}


def _m_rope(head_dim: int) -> dict[str, Any]:
    """The M-RoPE fields, without which the original code and vLLM do not start. For 128 the releases' 24, 20, 20."""
    half = head_dim // 2
    side = half * 5 // 16
    return {
        "rope_type": "default",
        "type": "default",
        "mrope_section": [half - 2 * side, side, side],
        "mrope_interleaved": True,
        "interleaved": True,
    }
