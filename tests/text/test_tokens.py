"""A transcript must not steer the model: nothing in data may reach it as one of its own tokens."""

import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from caspi.text import normalizer
from tests.text.strategies import TOKEN_TEXT, TOKENS, wide

CODES = ("he", "yi", "ar", "fa", "en", "zh")

each_language = pytest.mark.parametrize("code", CODES)


@pytest.fixture(scope="module")
def tokenizer(material: Callable[[str], Path]) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(material("qwen3-asr-tokenizer"))


def special_tokens(tokenizer: Any, text: str) -> list[str]:
    """The added tokens that a tokenizer sees in a text, as it would without our guard."""
    ids = tokenizer.encode(text, add_special_tokens=False)
    return [tokenizer.added_tokens_decoder[each].content for each in ids if each in tokenizer.added_tokens_decoder]


@each_language
@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=TOKEN_TEXT)
def test_no_special_token_comes_out_of_a_transcript(code: str, text: str, tokenizer: Any):
    transcript = normalizer(code).transcript(text)
    assert special_tokens(tokenizer, transcript) == []
    assert special_tokens(tokenizer, unicodedata.normalize("NFKC", transcript)) == []


def test_every_token_of_the_released_tokenizer_is_removed(tokenizer: Any):
    for token in tokenizer.added_tokens_decoder.values():
        assert special_tokens(tokenizer, token.content) == [token.content]
        for code in CODES:
            assert normalizer(code).transcript(f"א{token.content}ב") == "א ב"


@each_language
@pytest.mark.parametrize("token", TOKENS)
@pytest.mark.parametrize(
    "hide",
    [
        lambda token: token,
        wide,
        lambda token: "\u200b".join(token),
        lambda token: "\u202e".join(token),
        lambda token: "\u200d".join(token),
        lambda token: "\ufe0f".join(token),
        lambda token: f"<|{token}|>",
        lambda token: f"{token[:1]}\u2066{wide(token[1:])}",
    ],
    ids=["plain", "fullwidth", "zero-width", "bidi", "joiners", "variation", "nested", "mixed"],
)
def test_a_hidden_token_goes_and_leaves_its_neighbours_apart(code: str, token: str, hide: Callable[[str], str]):
    assert normalizer(code).transcript(f"אב{hide(token)}גד").split() in (["אב", "גד"], ["אב", "<|", "|>", "גד"])


@given(st.sampled_from(TOKENS), st.integers(1, 14), st.sampled_from(["\u05b8", "\u05bd\u0591", "\ufb1e"]))
def test_a_point_inside_a_token_does_not_save_it(token: str, cut: int, points: str):
    assert normalizer("he").transcript(f"א{token[:cut]}{points}{token[cut:]}ב") == "א ב"


def test_angle_brackets_that_are_no_token_stay():
    assert normalizer("he").transcript("3 < 5 > 2, |א|, <3") == "3 < 5 > 2, |א|, <3"
