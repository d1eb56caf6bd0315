"""Tokenizer, feature extractor and chat template in the files of the original layout, read and written.

Those who read that layout run transformers 4, which stumbles over the `tokenizer_config.json` of transformers 5 (a list
of extra special tokens) and does not know `Qwen3ASRFeatureExtractor`.
"""

import json
from pathlib import Path
from typing import Any

from transformers import Qwen2Tokenizer, Qwen3ASRFeatureExtractor, Qwen3ASRProcessor

from caspi.model.prompt import CHAT_TEMPLATE

_AUDIO_TOKENS = {
    "audio_token": "<|audio_pad|>",
    "audio_bos_token": "<|audio_start|>",
    "audio_eos_token": "<|audio_end|>",
}
# Whisper's extractor with these numbers gives the same features.
_EXTRACTOR_FIELDS = (
    "chunk_length",
    "dither",
    "feature_size",
    "hop_length",
    "n_fft",
    "n_samples",
    "nb_max_frames",
    "padding_side",
    "padding_value",
    "return_attention_mask",
    "sampling_rate",
)


def read_original_processor(folder: Path) -> Any:
    """The native processor for a folder of the original layout.

    Its chat template is replaced by the native one, which renders the same prompts and the answers of training too.
    """
    return Qwen3ASRProcessor(
        feature_extractor=Qwen3ASRFeatureExtractor(),
        tokenizer=Qwen2Tokenizer.from_pretrained(folder, model_specific_special_tokens=_AUDIO_TOKENS),
        chat_template=CHAT_TEMPLATE,
    )


def write_original_processor(processor: Any, folder: Path) -> None:
    """Write `tokenizer.json`, `vocab.json`, `merges.txt`, and configs that transformers 4 reads."""
    tokenizer = processor.tokenizer
    tokenizer.backend_tokenizer.save(str(folder / "tokenizer.json"))
    tokenizer.backend_tokenizer.model.save(str(folder))
    # Only transformers knows the tags around what is to be learnt; others render with plain Jinja.
    template = processor.chat_template.replace("{% generation %}", "").replace("{% endgeneration %}", "")
    extractor = processor.feature_extractor.to_dict()
    write_json(folder / "tokenizer_config.json", _tokenizer_config(tokenizer, template))
    write_json(folder / "chat_template.json", {"chat_template": template})
    write_json(
        folder / "preprocessor_config.json",
        {
            "feature_extractor_type": "WhisperFeatureExtractor",
            "processor_class": "Qwen3ASRProcessor",
            **{field: extractor[field] for field in _EXTRACTOR_FIELDS},
        },
    )


def _tokenizer_config(tokenizer: Any, template: str) -> dict[str, Any]:
    added = {
        str(token_id): {
            "content": token.content,
            "lstrip": token.lstrip,
            "normalized": token.normalized,
            "rstrip": token.rstrip,
            "single_word": token.single_word,
            "special": token.special,
        }
        for token_id, token in sorted(tokenizer.added_tokens_decoder.items())
    }
    return {
        "add_prefix_space": False,
        "added_tokens_decoder": added,
        "additional_special_tokens": [token["content"] for token in added.values() if token["special"]],
        **_AUDIO_TOKENS,
        "bos_token": None,
        "chat_template": template,
        "clean_up_tokenization_spaces": False,
        "eos_token": tokenizer.eos_token,
        "errors": "replace",
        "extra_special_tokens": _AUDIO_TOKENS,
        "model_max_length": tokenizer.model_max_length,
        "pad_token": tokenizer.pad_token,
        "processor_class": "Qwen3ASRProcessor",
        "split_special_tokens": False,
        "tokenizer_class": "Qwen2Tokenizer",
        "unk_token": None,
    }


def write_json(path: Path, content: Any) -> None:
    """Write JSON for people: letters as they are, indented."""
    path.write_text(json.dumps(content, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
