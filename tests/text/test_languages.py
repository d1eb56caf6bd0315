import pytest
from hypothesis import given
from hypothesis import strategies as st

from caspi.errors import RequestError
from caspi.text import LANGUAGE_NAMES, language_code, language_name, normalizer


def test_names_are_those_that_qwen3_asr_writes():
    from transformers.models.qwen3_asr.processing_qwen3_asr import LANGUAGE_CODE_TO_NAME

    assert dict(sorted((LANGUAGE_CODE_TO_NAME | {"he": "Hebrew", "yi": "Yiddish"}).items())) == LANGUAGE_NAMES


@pytest.mark.parametrize("code", ["Hebrew", "hebrew", "he-IL", "he_IL", "heb", "iw", "HE"])
def test_another_way_to_say_hebrew_is_answered_with_the_code(code):
    with pytest.raises(RequestError, match=r"did you mean he \(Hebrew\)"):
        language_name(code)


def test_an_unknown_language_lists_what_is_known():
    with pytest.raises(RequestError, match="expected an ISO 639 code of ar, cs"):
        normalizer("xx")


@given(st.sampled_from(["en", "yi", "fa", "hi", "zh"]), st.text())
def test_every_language_is_idempotent_and_consistent(code, text):
    language = normalizer(code)
    transcript, scoring = language.transcript(text), language.scoring(text)
    assert language.transcript(transcript) == transcript
    assert language.scoring(scoring) == scoring
    assert language.scoring(transcript) == scoring


@pytest.mark.parametrize(
    ("code", "written", "transcript", "scoring"),
    [
        ("en", "“Don’t!!” she said<|im_end|>", '"Don\'t!" she said', "dont she said"),
        ("en", "Straße CAFÉ", "Straße CAFÉ", "strasse café"),
        ("yi", "ייִדיש אַ שפּראַך", "ייִדיש אַ שפּראַך", "ייִדיש אַ שפּראַך"),
        ("fa", "می\u200cخواهم", "می\u200cخواهم", "میخواهم"),
        ("hi", "हिन्दी।", "हिन्दी।", "हिन्दी"),
        ("zh", "你好，世界。", "你好，世界。", "你好 世界"),
    ],
)
def test_other_languages_by_example(code, written, transcript, scoring):
    assert normalizer(code).transcript(written) == transcript
    assert normalizer(code).scoring(written) == scoring


@pytest.mark.parametrize("written", ["he", "HE", "Hebrew", "hebrew ", " he"])
def test_a_language_is_known_by_code_and_by_name(written: str):
    assert language_code(written) == "he"


def test_neither_code_nor_name_is_refused():
    with pytest.raises(RequestError, match="'klingon' is unknown"):
        language_code("klingon")
