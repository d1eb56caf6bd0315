import unicodedata

import pytest

from caspi.text import normalizer

yiddish = normalizer("yi")


@pytest.mark.parametrize(
    ("written", "transcript"),
    [
        ("ייִדיש אַ שפּראַך", "ייִדיש אַ שפּראַך"),
        ("ײִדיש", "ייִדיש"),
        ("צװײ", "צוויי"),
        ("הױז", "הויז"),
        ("פֿרײַ", "פֿרייַ"),
        ("פֿרייַ", "פֿרייַ"),
        ("וווּ", "וווּ"),
        ("װוּ", "וווּ"),
        ("שׂימחה תּורה כּלה", "שׂימחה תּורה כּלה"),
        ("בֿ ב", "בֿ ב"),
        # Pointed in full, with accents: only the points of the alphabet stay.
        ("שָׁלוֹם בָּרוּךְ מֶ֑לֶךְ", "שלום ברוּך מלך"),
        ("צה״ל ס׳איז", "צה\"ל ס'איז"),
        ("בית־מדרש", "בית-מדרש"),
        ("אַ<|2.40|>ײ", "אַ יי"),
    ],
)
def test_transcript_by_example(written: str, transcript: str):
    assert yiddish.transcript(written) == unicodedata.normalize("NFC", transcript)


@pytest.mark.parametrize(
    "code", [0xFB1D, 0xFB1F, 0xFB2B, 0xFB2E, 0xFB2F, 0xFB35, 0xFB3B, 0xFB44, 0xFB4A, 0xFB4C, 0xFB4E]
)
def test_a_letter_as_one_code_point_is_the_letter_and_its_point(code: int):
    letter, point = unicodedata.normalize("NFD", chr(code))
    expected = letter.replace("ײ", "יי") + point
    assert yiddish.transcript(f"ג{chr(code)}ד") == yiddish.transcript(f"ג{letter}{point}ד") == f"ג{expected}ד"


def test_points_count_for_scoring_because_they_are_vowels():
    assert yiddish.scoring("האַלטן!") == "האַלטן"
    assert yiddish.scoring("האַלטן") != yiddish.scoring("האָלטן")


def test_the_order_of_two_points_does_not_matter():
    assert yiddish.transcript("פֿ֑ אָ֑") == yiddish.transcript("פֿ֑ אָ֑") == "פֿ אָ"


def test_a_point_without_a_letter_goes():
    assert yiddish.transcript("\u0591\u0591\u05b7 \u05b8א") == "א"
