"""Numbers in words, and spellings with and without vowel letters."""

import pytest

from caspi.text.hebrew_numbers import read_numbers
from caspi.text.hebrew_spelling import differ_in_vowel_letters


@pytest.mark.parametrize(
    ("words", "digits"),
    [
        ("אפס", "0"),
        ("שלוש ילדות", "3 ילדות"),
        ("שלושה ילדים", "3 ילדים"),
        ("שני ילדים ושתי ילדות", "2 ילדים ו 2 ילדות"),
        ("עשר", "10"),
        ("חמש עשרה", "15"),
        ("חמישה עשר", "15"),
        ("שנים עשר", "12"),
        ("עשרים", "20"),
        ("עשרים ואחת", "21"),
        ("מאה", "100"),
        ("מאה שלושים וחמש", "135"),
        ("מאה ושתים עשרה", "112"),
        ("מאתיים", "200"),
        ("שש מאות שישים ושש", "666"),
        ("אלף תשע מאות ארבעים ושמונה", "1948"),
        ("אלפיים ועשרים ושלוש", "2023"),
        ("עשרת אלפים", "10000"),
        ("שלוש מאות אלף", "300000"),
        ("שני מיליון ומאתיים אלף ועשרים", "2200020"),
        ("5 אלף", "5000"),
        ("1 948 שקל", "1948 שקל"),
    ],
)
def test_a_number_in_words_is_read(words: str, digits: str):
    assert read_numbers(words) == digits


@pytest.mark.parametrize(
    ("words", "digits"), [("חמש שש שבע", "5 6 7"), ("עשרים עשרים", "20 20"), ("תשעים חמש", "90 5"), ("1 2 3", "1 2 3")]
)
def test_numbers_in_a_row_stay_apart(words: str, digits: str):
    assert read_numbers(words) == digits


@pytest.mark.parametrize(
    ("words", "digits"), [("בשלוש", "ב 3"), ("ב3", "ב 3"), ("בשלושים ושישה", "ב 36"), ("ושבע", "ו 7"), ("ששים", "60")]
)
def test_a_prefix_stands_apart_whether_digits_or_words_follow(words: str, digits: str):
    assert read_numbers(words) == digits


@pytest.mark.parametrize("words", ["", "שלום עולם", "אלפים של אנשים", "מאות אנשים", "007", "שנים רבות", "של שלום"])
def test_what_is_no_number_stays(words: str):
    assert read_numbers(words) == words


@pytest.mark.parametrize(
    ("one", "other"), [("תכנית", "תוכנית"), ("צהריים", "צהרים"), ("אמיתי", "אמתי"), ("מיכאל", "מכאל"), ("דיבר", "דבר")]
)
def test_the_same_word_in_both_spellings_is_known(one: str, other: str):
    assert differ_in_vowel_letters(one, other)
    assert differ_in_vowel_letters(other, one)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("הוא", "היא"),  # one letter instead of the other
        ("ילד", "ילדי"),  # a suffix
        ("ילד", "וילד"),  # a prefix
        ("שר", "שיר"),  # too short to tell
        ("שלום", "שלום"),
        ("ספר", "סיפור נוסף"),
        ("מכונה", "מכונית"),
        ("", "וו"),
    ],
)
def test_other_words_are_other_words(one: str, other: str):
    assert not differ_in_vowel_letters(one, other)
