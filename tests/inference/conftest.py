"""Models and clips to decode."""

import numpy as np
import pytest
import torch
from transformers import Qwen3ASRForConditionalGeneration

from caspi.model import Loaded
from caspi.model.toy import _initialize, build_toy, toy_config, train_tokenizer
from caspi.recipe.sections import Toy

TEXTS = ["שלום עולם", "מה שלומך היום", "לא לא לא"]


def noise(seconds: float, *, seed: int = 0) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal(round(seconds * 16000)) * 0.1).astype(np.float32)


@pytest.fixture(scope="session", params=["toy", "larger"])
def loaded(request: pytest.FixtureRequest) -> Loaded:
    """Random models: the toy, and one of ten million parameters whose query heads share key heads, as in releases."""
    return {"toy": random_toy, "larger": random_larger}[request.param]()


def random_toy() -> Loaded:
    return talkative(Loaded.wrap(*build_toy(Toy(), texts=TEXTS * 20, language="Hebrew", seed=0)))


def random_larger() -> Loaded:
    sizes = Toy(encoder_width=128, decoder_width=320, decoder_layers=6, decoder_heads=10)
    _, processor = build_toy(Toy(), texts=TEXTS * 20, language="Hebrew", seed=0)
    config = toy_config(sizes, train_tokenizer(TEXTS * 20, language="Hebrew", vocabulary=512))
    config.text_config.num_key_value_heads = 5
    config.text_config.head_dim = 64  # not the width over the heads, as in the 0.6B
    torch.manual_seed(2)
    model = Qwen3ASRForConditionalGeneration(config).eval()
    _initialize(model)
    return talkative(Loaded.wrap(model, processor))


def talkative(loaded: Loaded) -> Loaded:
    """With an output layer of its own: with that of its embedding a random model repeats its last token for ever."""
    loaded.model.lm_head.weight = torch.nn.Parameter(torch.randn_like(loaded.model.lm_head.weight))
    return loaded


@pytest.fixture
def without_guard(monkeypatch: pytest.MonkeyPatch) -> None:
    """Random models go round in circles; transformers lets them."""
    monkeypatch.setattr("caspi.inference.repetition.MAX_COPIES", 10**6)
    monkeypatch.setattr("caspi.inference.greedy_search.MIN_COPIES_AT_LIMIT", 10**6)
