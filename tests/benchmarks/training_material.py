"""What the benchmark of training trains: a Qwen3-ASR with random weights, on a prepared corpus of noise.

FOLDER/
  corpus/   as `caspi prepare` leaves it, all of it in the training split
  lengths/  its length index
  model/    random weights, the released vocabulary
"""

import json
from pathlib import Path
from statistics import NormalDist

import numpy as np
import torch
import yaml
from transformers import (
    Qwen2Tokenizer,
    Qwen3ASRFeatureExtractor,
    Qwen3ASRForConditionalGeneration,
    Qwen3ASRProcessor,
)

from caspi import audio, ray_session
from caspi.corpus import Corpus, prepare
from caspi.model import Loaded, released
from caspi.model.prompt import CHAT_TEMPLATE
from caspi.model.toy import toy_config, train_tokenizer
from caspi.recipe import load_recipe
from caspi.recipe.sections import Toy
from caspi.synthesis.vocabulary import GROUPS
from caspi.training.lengths import LengthIndex

SIZES = ("47M", *released.SIZES)
_SMALL = Toy(
    conv_channels=64,
    encoder_width=256,
    encoder_layers=4,
    encoder_heads=4,
    decoder_width=256,
    decoder_layers=6,
    decoder_heads=4,
)
MEAN_S = 5.5
SEED = 42
_SPREAD = 0.7  # of the logarithms of durations
_CHARACTERS_PER_S = 13.0
_IDS = ("audio_token_id", "timestamp_token_id", "pad_token_id", "eos_token_id")  # of the tokenizer in a config


def make(folder: Path, *, num_utterances: int, size: str, tokenizer: Path | None) -> None:
    """Fill the folder, unless an earlier call did."""
    if (folder / "lengths" / "lengths.json").exists():
        return
    texts = _write_speech(folder / "speech", num_utterances)
    recipe = {
        "data": {
            "sources": [{"kind": "jsonl", "path": "speech/manifest.jsonl"}],
            "splits": {"validation": 0},
            "shards": {"max_duration_s": 120},  # several, so that the plan mixes them
        }
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    with ray_session.connect():
        corpus = prepare(load_recipe(folder / "recipe.yaml"), folder / "corpus")
    num_kept = corpus.manifest["num_utterances"]
    assert num_kept == num_utterances, f"{num_kept} of {num_utterances} utterances were kept"
    loaded = build(texts, size, tokenizer)
    loaded.save(folder / "model")
    LengthIndex.build(Corpus.open(folder / "corpus"), loaded.prompter, folder / "lengths")


def durations_s(num_utterances: int) -> np.ndarray:
    """Lengths like crowd-transcribe's: lognormal, 5.5 s on average, 0.5 to 30 s. Even a few have that distribution."""
    shares = (np.arange(num_utterances) + 0.5) / num_utterances
    normal = np.array([NormalDist().inv_cdf(share) for share in shares])
    lengths_s = np.clip(np.exp(np.log(MEAN_S) - _SPREAD**2 / 2 + _SPREAD * normal), 0.5, 30)
    return np.random.default_rng(SEED).permutation(lengths_s)


def build(texts: list[str], size: str, tokenizer: Path | None) -> Loaded:
    """The model. Without a folder it gets a tokenizer that is learnt from the texts, and most ids are never used."""
    processor = Qwen3ASRProcessor(
        feature_extractor=Qwen3ASRFeatureExtractor(),
        tokenizer=Qwen2Tokenizer.from_pretrained(tokenizer)
        if tokenizer
        else train_tokenizer(texts, language="Hebrew", vocabulary=512),
        chat_template=CHAT_TEMPLATE,
    )
    # Only the forced aligner's tokenizer has it, but a config must name it.
    processor.tokenizer.add_tokens(["<timestamp>"], special_tokens=True)
    config = toy_config(_SMALL, processor.tokenizer)
    if size in released.SIZES:
        ids = {name: getattr(config, name) for name in _IDS}
        config = released.released_config(size)
        for name, value in ids.items():
            setattr(config, name, value)
    config.text_config.vocab_size = released.VOCABULARY
    torch.manual_seed(SEED)
    return Loaded.wrap(Qwen3ASRForConditionalGeneration(config), processor)


def _write_speech(folder: Path, num_utterances: int) -> list[str]:
    """Noise as FLAC with Hebrew words of as many letters as are spoken in that time. Returns the texts."""
    folder.mkdir(parents=True)
    random = np.random.default_rng(SEED)
    words = [word.plain for group in GROUPS.values() for word in group]
    lines, texts = [], []
    for number, duration_s in enumerate(durations_s(num_utterances)):
        noise = random.standard_normal(round(duration_s * audio.SAMPLE_RATE)) * 0.05
        (folder / f"{number:05d}.flac").write_bytes(audio.encode_flac(noise.astype(np.float32)))
        text = str(random.choice(words))
        while len(text) < _CHARACTERS_PER_S * duration_s - 2:
            text += f" {random.choice(words)}"
        lines.append(json.dumps({"id": f"{number:05d}", "audio": f"{number:05d}.flac", "text": text}))
        texts.append(text)
    (folder / "manifest.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return texts
