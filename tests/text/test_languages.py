import shutil
import subprocess
import sys
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import caspi
from caspi.errors import RequestError
from caspi.text import LANGUAGE_NAMES, language_code, language_name, languages, normalizer
from tests.text.strategies import HEBREW_TEXT


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


# Letters, marks and signs of the scripts that we know, and whatever else there is.
ANY_TEXT = st.one_of(
    HEBREW_TEXT,
    st.text(st.sampled_from("كيأإآاٱىةءًٌَُِّْٰٕٓٔـﷺﷲﻻﹰﹷ٣۳٫٬٪؟،؛۝می\u200c\u200d\"'<|>\u061c ")),
    st.text(st.sampled_from("ऀकर्षिॐ।०\u200c\u200d가각\u3164ガｶﾞ々。，＜＞｜ＡаёЙ\u0306ςΣΆİıßﬁée\u0301'`¨")),
    st.text(),
)


@given(st.sampled_from(["en", "yi", "ar", "fa", "hi", "zh", "ko", "tr"]), ANY_TEXT)
def test_every_language_is_idempotent_and_consistent(code: str, text: str):
    language = normalizer(code)
    transcript, scoring = language.transcript(text), language.scoring(text)
    assert language.transcript(transcript) == transcript
    assert language.scoring(scoring) == scoring
    assert language.scoring(transcript) == scoring
    for form in (transcript, scoring):
        assert unicodedata.is_normalized("NFC", form)
        assert form == " ".join(form.split())


def test_each_file_of_languages_declares_itself():
    assert {"ar", "he", "yi"} <= set(languages.discover())
    for code, language in languages.discover().items():
        assert normalizer(code) is language.normalizer
        assert language_name(code) == language.name


def test_one_more_file_is_all_that_another_language_needs(tmp_path: Path):
    """In a copy of the package, since Caspi finds its languages when it is imported."""
    copy = tmp_path / "caspi"
    shutil.copytree(Path(caspi.__file__).parent / "text", copy / "text")
    for name in ("__init__.py", "errors.py"):
        (copy / name).write_bytes((Path(caspi.__file__).parent / name).read_bytes())
    (copy / "text" / "languages" / "welsh.py").write_text(
        "from caspi.text.language import Language\n\nLANGUAGE = Language(code='cy', name='Welsh')\n"
    )
    ask = (
        "from caspi.text import *; print(language_name('cy'), language_code('welsh'), normalizer('cy').scoring('Da!'))"
    )
    answer = subprocess.run([sys.executable, "-c", ask], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert answer.stdout == "Welsh cy da\n"


@pytest.mark.parametrize(
    ("code", "written", "transcript", "scoring"),
    [
        ("en", "“Don’t!!” she said<|im_end|>", '"Don\'t!" she said', "dont she said"),
        ("en", "Straße CAFÉ", "Straße CAFÉ", "strasse café"),
        ("en", "ad\u200cmin<asr\u200d_text>x", "admin x", "admin x"),
        ("fa", "می\u200cخواهم", "می\u200cخواهم", "میخواهم"),
        ("fa", "می\u200c\u200cخواهم \u200cکه", "می\u200cخواهم که", "میخواهم که"),
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
