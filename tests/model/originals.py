"""A checkpoint in the original layout, written out by hand as `Qwen/Qwen3-ASR-1.7B` has it: a witness of its own."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from caspi.model import Loaded

Tensors = dict[str, torch.Tensor]


def original_tensors(toy: Loaded) -> Tensors:
    """All tensors by their original names, taken from the modules themselves. The output layer is a copy."""
    encoder, decoder = toy.model.model.audio_tower, toy.model.model.language_model
    projector = toy.model.model.multi_modal_projector
    modules: dict[str, Any] = {
        "thinker.audio_tower.conv2d1": encoder.conv2d1,
        "thinker.audio_tower.conv2d2": encoder.conv2d2,
        "thinker.audio_tower.conv2d3": encoder.conv2d3,
        "thinker.audio_tower.conv_out": encoder.conv_out,
        "thinker.audio_tower.ln_post": encoder.ln_post,
        "thinker.audio_tower.proj1": projector.linear_1,
        "thinker.audio_tower.proj2": projector.linear_2,
        "thinker.model.embed_tokens": decoder.embed_tokens,
        "thinker.model.norm": decoder.norm,
        "thinker.lm_head": decoder.embed_tokens,
    }
    for number, layer in enumerate(encoder.layers):
        at = f"thinker.audio_tower.layers.{number}"
        modules |= {
            f"{at}.self_attn.q_proj": layer.self_attn.q_proj,
            f"{at}.self_attn.k_proj": layer.self_attn.k_proj,
            f"{at}.self_attn.v_proj": layer.self_attn.v_proj,
            f"{at}.self_attn.out_proj": layer.self_attn.out_proj,
            f"{at}.self_attn_layer_norm": layer.self_attn_layer_norm,
            f"{at}.fc1": layer.fc1,
            f"{at}.fc2": layer.fc2,
            f"{at}.final_layer_norm": layer.final_layer_norm,
        }
    for number, layer in enumerate(decoder.layers):
        at = f"thinker.model.layers.{number}"
        modules |= {
            f"{at}.self_attn.q_proj": layer.self_attn.q_proj,
            f"{at}.self_attn.k_proj": layer.self_attn.k_proj,
            f"{at}.self_attn.v_proj": layer.self_attn.v_proj,
            f"{at}.self_attn.o_proj": layer.self_attn.o_proj,
            f"{at}.self_attn.q_norm": layer.self_attn.q_norm,
            f"{at}.self_attn.k_norm": layer.self_attn.k_norm,
            f"{at}.mlp.gate_proj": layer.mlp.gate_proj,
            f"{at}.mlp.up_proj": layer.mlp.up_proj,
            f"{at}.mlp.down_proj": layer.mlp.down_proj,
            f"{at}.input_layernorm": layer.input_layernorm,
            f"{at}.post_attention_layernorm": layer.post_attention_layernorm,
        }
    return {
        f"{name}.{part}": parameter.detach().clone()
        for name, module in modules.items()
        for part, parameter in module.named_parameters()
    }


def original_config(toy: Loaded) -> dict[str, Any]:
    """As released: sizes below `thinker_config`, and fields of other models that mean nothing here."""
    config = toy.model.config
    encoder, decoder = config.audio_config, config.text_config
    generic = {"id2label": {"0": "LABEL_0", "1": "LABEL_1"}, "is_decoder": False, "torchscript": False, "prefix": None}
    return {
        "architectures": ["Qwen3ASRForConditionalGeneration"],
        "model_type": "qwen3_asr",
        "support_languages": ["Chinese", "English"],
        "thinker_config": {
            "audio_config": {
                **generic,
                "activation_dropout": 0,
                "activation_function": "gelu",
                "attention_dropout": 0,
                "conv_chunksize": 500,
                "d_model": encoder.d_model,
                "downsample_hidden_size": encoder.downsample_hidden_size,
                "dropout": 0,
                "encoder_attention_heads": encoder.encoder_attention_heads,
                "encoder_ffn_dim": encoder.encoder_ffn_dim,
                "encoder_layers": encoder.encoder_layers,
                "initializer_range": 0.02,
                "max_source_positions": 1500,
                "model_type": "qwen3_asr_audio_encoder",
                "n_window": 50,
                "n_window_infer": 800,
                "num_hidden_layers": encoder.encoder_layers,
                "num_mel_bins": 128,
                "output_dim": encoder.output_dim,
                "scale_embedding": False,
                "tie_word_embeddings": True,
            },
            "audio_end_token_id": 1,
            "audio_start_token_id": 0,
            "audio_token_id": config.audio_token_id,
            "dtype": "float32",
            "initializer_range": 0.02,
            "model_type": "qwen3_asr_thinker",
            "text_config": {
                **generic,
                "attention_bias": False,
                "attention_dropout": 0.0,
                "decoder_sparse_step": 1,
                "head_dim": decoder.head_dim,
                "hidden_act": "silu",
                "hidden_size": decoder.hidden_size,
                "initializer_range": 0.02,
                "intermediate_size": decoder.intermediate_size,
                "max_position_embeddings": decoder.max_position_embeddings,
                "mlp_only_layers": [],
                "model_type": "qwen3",
                "moe_intermediate_size": 768,
                "norm_topk_prob": True,
                "num_attention_heads": decoder.num_attention_heads,
                "num_experts": 128,
                "num_experts_per_tok": 8,
                "num_hidden_layers": decoder.num_hidden_layers,
                "num_key_value_heads": decoder.num_key_value_heads,
                "rms_norm_eps": 1e-06,
                "rope_scaling": {
                    "interleaved": True,
                    "mrope_interleaved": True,
                    "mrope_section": [24, 20, 20],
                    "rope_type": "default",
                    "type": "default",
                },
                "rope_theta": decoder.rope_parameters["rope_theta"],
                "tie_word_embeddings": True,
                "use_cache": True,
                "vocab_size": decoder.vocab_size,
            },
            "user_token_id": 872,
        },
        "transformers_version": "4.57.6",
    }


def write_original(toy: Loaded, folder: Path, *, num_files: int = 1, config: dict | None = None) -> Path:
    """The whole folder, its tokenizer as of transformers 4: `vocab.json`, `merges.txt`, not `tokenizer.json`."""
    folder.mkdir(parents=True, exist_ok=True)
    write_tensors(original_tensors(toy), folder, num_files=num_files)
    tokenizer = toy.processor.tokenizer
    tokenizer.backend_tokenizer.model.save(str(folder))
    added = {
        str(number): {
            "content": token.content,
            "lstrip": False,
            "normalized": False,
            "rstrip": False,
            "single_word": False,
            "special": token.content not in ("<asr_text>", "<non_speech>", "<timestamp>"),
        }
        for number, token in tokenizer.added_tokens_decoder.items()
    }
    files = {
        "config.json": config or original_config(toy),
        "tokenizer_config.json": {
            "add_bos_token": False,
            "added_tokens_decoder": added,
            "bos_token": None,
            "eos_token": "<|im_end|>",
            "errors": "replace",
            "model_max_length": 131072,
            "pad_token": "<|endoftext|>",
            "tokenizer_class": "Qwen2Tokenizer",
            "unk_token": None,
        },
        "chat_template.json": {"chat_template": "{{ 'another one' }}"},
        "preprocessor_config.json": {"feature_extractor_type": "WhisperFeatureExtractor", "feature_size": 128},
        "generation_config.json": {"do_sample": False, "max_new_tokens": 512},
    }
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content), encoding="utf-8")
    return folder


def write_tensors(tensors: Tensors, folder: Path, *, num_files: int = 1) -> None:
    if num_files == 1:
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        return
    names = sorted(tensors)
    places = {}
    for number in range(num_files):
        file = f"model-{number + 1:05}-of-{num_files:05}.safetensors"
        part = names[number::num_files]
        save_file({name: tensors[name] for name in part}, folder / file, metadata={"format": "pt"})
        places |= dict.fromkeys(part, file)
    index = {"metadata": {}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
