from collections.abc import Callable
from pathlib import Path

import pytest

from caspi.model import Loaded, Prompter, build_toy
from caspi.recipe.sections import Toy

TEXTS = ["שלום עולם", "ילד הולך הביתה", 'צה"ל הודיע', "בית-ספר גדול", "hello world"]


@pytest.fixture(scope="session")
def toy() -> Loaded:
    """A small toy with a tokenizer that knows a few words."""
    sizes = Toy(
        encoder_width=32, encoder_layers=2, encoder_heads=2, decoder_width=32, decoder_layers=2, decoder_heads=2
    )
    model, processor = build_toy(sizes, texts=TEXTS * 20, language="Hebrew", seed=1)
    return Loaded.wrap(model, processor)


@pytest.fixture(scope="session", params=["toy", "real"])
def prompter(request: pytest.FixtureRequest, toy: Loaded, material: Callable[[str], Path]) -> Prompter:
    """Prompts with the toy's tokenizer, and with the released one where it is at hand."""
    if request.param == "toy":
        return toy.prompter
    from transformers import AutoProcessor

    return Prompter(AutoProcessor.from_pretrained(material("qwen3-asr-tokenizer")).tokenizer)
