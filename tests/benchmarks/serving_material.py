"""A model and clips to compare servers with: every server writes the same words of the same length, whatever it hears.

A random model writes what it likes and stops when it likes, so servers would be compared at different work. This one
computes as much as any of its size, and its output layer is its embedding in another order: after each token the next
one of a circle through the vocabulary, never an end of turn. So each answer is as long as its bound of tokens, has no
repetition for a guard to cut, and is the same text from every server that works.
"""

import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch

from caspi.audio import SAMPLE_RATE
from caspi.model import Loaded, build_toy, load_prompter, released
from caspi.recipe.sections import Toy
from tests.benchmarks import training_material
from tests.speech import speak

CLIP_S = 6.4
NUM_TOKENS = 24
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"

_SMALL = {
    "20M": Toy(
        vocabulary=1024,
        encoder_width=384,
        encoder_layers=4,
        encoder_heads=6,
        decoder_width=384,
        decoder_layers=6,
        decoder_heads=6,
        conv_channels=64,
    ),
    "60M": Toy(
        vocabulary=1024,
        encoder_width=640,
        encoder_layers=4,
        encoder_heads=10,
        decoder_width=640,
        decoder_layers=8,
        decoder_heads=10,
        conv_channels=64,
    ),
}

SIZES = (*_SMALL, *released.SIZES)


def build_model(folder: Path, size: str) -> Path:
    """Write a model of one of `SIZES` with random weights into a folder, unless it is there."""
    if (folder / "config.json").exists():
        return folder
    words = [f"{first}{second}ה" for first in "אבגדהוזחט" for second in "יכלמנסעפצקרשת"]
    texts = [" ".join(words)] * 50
    if size in _SMALL:
        model, processor = build_toy(_SMALL[size], texts=texts, language="Hebrew", seed=0)
    else:
        loaded = training_material.build(texts, size, tokenizer=None)
        model, processor = loaded.model, loaded.processor
    embedding = model.get_input_embeddings().weight  # type: ignore[operator]
    circle = _circle(processor.tokenizer)
    with torch.no_grad():
        embedding.normal_(std=30.0)  # louder than what the layers add, so that the circle holds
        output = torch.zeros_like(embedding)
        output[circle[1:] + circle[:1]] = embedding[circle]
        output[circle[0]] += embedding[processor.tokenizer.convert_tokens_to_ids("<asr_text>")]
    model.config.tie_word_embeddings = model.config.text_config.tie_word_embeddings = False
    model.lm_head.weight = torch.nn.Parameter(output)
    Loaded.wrap(model, processor).save(folder)
    return folder


def expected_text(folder: Path) -> str:
    """What every server writes for every clip, when the language is forced."""
    tokenizer = load_prompter(folder).tokenizer
    return str(tokenizer.decode(_circle(tokenizer)[:NUM_TOKENS])).strip()


def _circle(tokenizer: Any) -> list[int]:
    """The tokens that are whole Hebrew letters, in the order of the vocabulary."""
    return [token for token in range(len(tokenizer)) if re.fullmatch(r" ?[א-ת]+", tokenizer.decode([token]))]


def clips(num_clips: int) -> list[bytes]:
    """WAV files of `CLIP_S` seconds of speech, no two alike. Of noise Caspi would say that nobody speaks."""
    random, voice = np.random.default_rng(0), speak(CLIP_S)
    noises = (0.001 * random.standard_normal(len(voice)) for _ in range(num_clips))
    return [wav(np.roll(voice, random.integers(len(voice))) + noise) for noise in noises]


def wav(samples: np.ndarray) -> bytes:
    encoded = io.BytesIO()
    soundfile.write(encoded, samples, SAMPLE_RATE, format="WAV", subtype="PCM_16")
    return encoded.getvalue()
