import pytest
from hypothesis import given
from hypothesis import strategies as st

from caspi.errors import RequestError
from caspi.text import LANGUAGE_NAMES, direction, script_share


@pytest.mark.parametrize(
    ("code", "text", "share"),
    [
        ("he", "שלום עולם", 1.0),
        ("he", "שָׁלוֹם, 1948!", 1.0),
        ("he", "שלום abcd", 0.5),
        ("he", "hello", 0.0),
        ("he", "שּׂ", 1.0),
        ("yi", "ייִדיש", 1.0),
        ("ar", "مرحبا", 1.0),
        ("ar", "ﻣﺮﺣﺒﺎ", 1.0),
        ("fa", "می\u200cخواهم", 1.0),
        ("ru", "Привет, мир", 1.0),
        ("mk", "Ѓорѓи", 1.0),
        ("el", "Καλημέρα", 1.0),
        ("hi", "हिन्दी।", 1.0),
        ("th", "ภาษาไทย", 1.0),
        ("ko", "한국어", 1.0),
        ("ko", "漢字", 0.0),
        ("ja", "日本語のテスト、人々", 1.0),
        ("zh", "你好，世界。", 1.0),
        ("zh", "你好ab", 0.5),
        ("yue", "唔該", 1.0),
        ("zh", "ひらがな", 0.0),
        ("en", "naïve café ﬁn ＡＢ", 1.0),
        ("vi", "Tiếng Việt", 1.0),
        ("de", "Привет", 0.0),
    ],
)
def test_share_of_letters_in_the_language_own_scripts(code: str, text: str, share: float):
    assert script_share(text, code) == share


@pytest.mark.parametrize("text", ["", "1948 - 2.5%", "?! …", "\u05b8\u0301"])
def test_a_text_without_letters_has_no_share(text: str):
    assert script_share(text, "he") is None


@given(st.sampled_from(sorted(LANGUAGE_NAMES)), st.text())
def test_a_share_is_a_fraction(code: str, text: str):
    share = script_share(text, code)
    assert share is None or 0 <= share <= 1


def test_an_unknown_language_is_refused():
    with pytest.raises(RequestError, match="'klingon' is unknown"):
        script_share("tlhIngan", "klingon")


@pytest.mark.parametrize(
    ("code", "script"),
    [("he", "Hebrew"), ("ar", "Arabic"), ("ru", "Cyrillic"), ("th", "Thai"), ("hi", "Devanagari"), ("ko", "Hangul")],
)
def test_letters_are_told_by_unicode_own_scripts(code: str, script: str):
    import unicodedata

    import regex  # knows the property that the standard library lacks; transformers brings it

    is_of_script = regex.compile(rf"\p{{Script={script}}}")
    symbols = "ℵℶℷℸـ"  # alef as a number, and tatweel: common to several scripts by the book
    letters = [chr(code) for code in range(0x10000) if unicodedata.category(chr(code))[0] == "L"]
    wrong = [letter for letter in letters if (script_share(letter, code) == 1) != bool(is_of_script.match(letter))]
    assert [letter for letter in wrong if letter not in symbols] == []


@pytest.mark.parametrize(
    ("code", "expected"), [("he", "rtl"), ("yi", "rtl"), ("fa", "rtl"), ("en", "ltr"), ("zh", "ltr")]
)
def test_the_direction_is_that_of_the_language(code, expected):
    assert direction(code) == expected
