"""A Qwen3-ASR of about a million parameters: the native class from a small config, with a tokenizer of its own.

Everything but the sizes is the real thing: the chat template, the special tokens, the windows of the encoder, the tied
embedding. What trains and serves the toy trains and serves the 1.7B.
"""

import json
import math
from collections.abc import Iterable

import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import (
    Qwen2Tokenizer,
    Qwen3ASRConfig,
    Qwen3ASRFeatureExtractor,
    Qwen3ASRForConditionalGeneration,
    Qwen3ASRProcessor,
)

from caspi.model.prompt import CHAT_TEMPLATE
from caspi.recipe.sections import Toy

# As in the released tokenizer, so that prompts and outputs are the same strings.
SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|audio_start|>",
    "<|audio_end|>",
    "<|audio_pad|>",
    "<non_speech>",
    "<asr_text>",
    "<timestamp>",
)

_ROPE_THETA = 10_000.0

# Qwen2's own pre-tokenizer: words with their leading space, single digits, runs of marks, line ends.
_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def build_toy(
    sizes: Toy, *, texts: Iterable[str], language: str, seed: int
) -> tuple[torch.nn.Module, Qwen3ASRProcessor]:
    """A fresh toy model and its processor; the tokenizer learns its merges from `texts`.

    `language` is the name that targets begin with (Hebrew): its letters are merged like those of any frequent word.
    """
    processor = Qwen3ASRProcessor(
        feature_extractor=Qwen3ASRFeatureExtractor(),
        tokenizer=train_tokenizer(texts, language=language, vocabulary=sizes.vocabulary),
        chat_template=CHAT_TEMPLATE,
    )
    torch.manual_seed(seed)  # embeddings, norms and biases
    model = Qwen3ASRForConditionalGeneration(toy_config(sizes, processor.tokenizer))
    _initialize(model)
    return model, processor


def train_tokenizer(texts: Iterable[str], *, language: str, vocabulary: int) -> Qwen2Tokenizer:
    """Byte-level BPE with Qwen's special tokens: any text can be written, frequent words are short."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary - len(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = list(texts)
    # The frame of every prompt and target, as often as it occurs, so that it costs few tokens.
    frame = [f"system\nuser\nassistant\nlanguage {language}"] * max(1, len(texts))
    tokenizer.train_from_iterator([*texts, *frame], trainer)
    tokenizer.add_special_tokens([])
    return Qwen2Tokenizer(
        vocab=tokenizer.get_vocab(),
        merges=_merges(tokenizer),
        unk_token=None,
        bos_token=None,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        extra_special_tokens=list(SPECIAL_TOKENS),
        model_specific_special_tokens={
            "audio_bos_token": "<|audio_start|>",
            "audio_eos_token": "<|audio_end|>",
            "audio_token": "<|audio_pad|>",
        },
    )


def toy_config(sizes: Toy, tokenizer: Qwen2Tokenizer) -> Qwen3ASRConfig:
    """The config of the released models with small numbers."""
    ids = tokenizer.convert_tokens_to_ids
    return Qwen3ASRConfig(
        audio_config={
            "model_type": "qwen3_asr_encoder",
            "d_model": sizes.encoder_width,
            "encoder_layers": sizes.encoder_layers,
            "encoder_attention_heads": sizes.encoder_heads,
            "encoder_ffn_dim": 4 * sizes.encoder_width,
            "downsample_hidden_size": sizes.conv_channels,
            "output_dim": sizes.decoder_width,
        },
        text_config={
            "model_type": "qwen3",
            "vocab_size": len(tokenizer),
            "hidden_size": sizes.decoder_width,
            "intermediate_size": 3 * sizes.decoder_width,
            "num_hidden_layers": sizes.decoder_layers,
            "num_attention_heads": sizes.decoder_heads,
            "num_key_value_heads": sizes.decoder_heads,
            "head_dim": sizes.decoder_width // sizes.decoder_heads,
            "max_position_embeddings": 32768,
            "tie_word_embeddings": True,
            "rope_parameters": {"rope_type": "default", "rope_theta": _ROPE_THETA},
            "pad_token_id": ids("<|endoftext|>"),
            "eos_token_id": ids("<|im_end|>"),
            "bos_token_id": None,
        },
        audio_token_id=ids("<|audio_pad|>"),
        timestamp_token_id=ids("<timestamp>"),
        pad_token_id=ids("<|endoftext|>"),
        eos_token_id=(ids("<|endoftext|>"), ids("<|im_end|>")),
    )


def _initialize(model: torch.nn.Module) -> None:
    """Draw weights that keep the size of signals from layer to layer.

    The released models' own initialization, 0.02 everywhere, suits wide layers. In the toy's narrow ones audio leaves
    the convolutions 10,000 times smaller than the position embedding that is added to it, and the decoder learns to
    guess sentences before it learns to listen.
    """
    embedding = model.get_input_embeddings().weight  # type: ignore[operator]
    for name, parameter in model.named_parameters():
        if parameter.ndim < 2 or parameter is embedding:
            continue
        gain = math.sqrt(2) if parameter.ndim == 4 else 1.0  # half of each convolution's output is cut off
        if "conv_out" in name:
            gain = 2.0  # louder than the position embedding
        if name.endswith(("o_proj.weight", "down_proj.weight", "out_proj.weight", "fc2.weight")):
            gain = 0.3  # what a layer adds to its input
        if "linear_2" in name:
            gain = 0.2  # audio embeddings no larger than the decoder's own additions
        torch.nn.init.normal_(parameter, std=gain / math.sqrt(parameter[0].numel()))


def _merges(tokenizer: Tokenizer) -> list[tuple[str, str]]:
    merges = json.loads(tokenizer.to_str())["model"]["merges"]
    return [tuple(merge) if isinstance(merge, list) else tuple(merge.split(" ")) for merge in merges]
