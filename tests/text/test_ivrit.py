"""The scoring of ivrit.ai's leaderboard, with its faults."""

import random
import re

import pytest
from hypothesis import given
from transformers.models.whisper.english_normalizer import BasicTextNormalizer

from caspi.errors import RequestError
from caspi.text import normalizer
from tests.text.strategies import HEBREW_TEXT

ivrit = normalizer("he", "ivrit")
basic = BasicTextNormalizer()


def documented(text: str) -> str:
    """The four steps of `HebrewTextNormalizer`, the last by the very class that transformers ships."""
    text = re.sub("[\u061c\u200b-\u200d\u200e-\u200f\u202a-\u202e\u2066-\u2069\ufeff]", "", text)
    text = re.sub("[\u05b0-\u05bc\u05c1\u05c2\u05c4\u05c5\u05c7]", "", text)  # the package `hebrew`: no_niqqud()
    text = text.replace('"', "").replace("'", "")
    return basic(text)


def random_text(generator: random.Random) -> str:
    hebrew = [chr(generator.choice([*range(0x0590, 0x0600), *range(0xFB1D, 0xFB50)])) for _ in range(20)]
    others = [*"\"'()[]<>|.,-!  \tAbİΣß½ﬁ״׳”’", "<|2.40|>", "\xad", "\u2060", "\u200e", "\u202b"]
    return "".join(generator.choices(hebrew + others, k=generator.randint(0, 30)))


def test_a_thousand_random_texts_score_as_theirs():
    generator = random.Random(7)
    for text in (random_text(generator) for _ in range(1000)):
        assert ivrit.scoring(text) == documented(text)


@given(HEBREW_TEXT)
def test_any_text_scores_as_theirs(text: str):
    assert ivrit.scoring(text) == documented(text)
    assert ivrit.scoring(ivrit.scoring(text)) == ivrit.scoring(text)


@pytest.mark.parametrize(
    ("written", "scoring"),
    [
        ("צה״ל", "צה ל"),
        ("צה”ל", "צה ל"),
        ("צ׳ק", "צ ק"),
        ("צ’ק", "צ ק"),
        ('צה"ל', "צהל"),
        ("צ'ק", "צק"),
        ("בְּרֵאשִׁ֖ית", "בראש ית"),
        ("אבֽג", "אב ג"),
        ("אבֿג", "אב ג"),
        ("\ufb2aלום", "ש לום"),
        ("ירו\xadשלים", "ירו\xadשלים"),
        ("ירו\u2060שלים", "ירו\u2060שלים"),
        ("<|0.00|>שלום<|2.40|><|2.50|>עולם", "שלוםעולם"),
        ("(צחוק) כן, [לא] בית־ספר!", " כן בית ספר "),
    ],
)
def test_its_faults_are_repeated(written: str, scoring: str):
    assert documented(written) == scoring
    assert ivrit.scoring(written) == scoring


def test_the_transcript_is_the_strict_one():
    assert ivrit.transcript("צה״ל!!  הוֹדיע") == normalizer("he").transcript("צה״ל!!  הוֹדיע") == 'צה"ל! הודיע'


def test_other_languages_have_no_such_style():
    with pytest.raises(RequestError, match="style 'ivrit' is for he only, not for yi; use 'strict' there"):
        normalizer("yi", "ivrit")


def test_an_unknown_style_lists_what_there_is():
    with pytest.raises(RequestError, match="style 'whisper' of normalizer is unknown; expected one of strict, ivrit"):
        normalizer("he", "whisper")
