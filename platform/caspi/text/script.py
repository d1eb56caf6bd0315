"""Which script a text is written in."""

import unicodedata
from functools import cache

from caspi.text.cleaning import CharacterMap
from caspi.text.registry import find_language

_EXPECTED, _OTHER = "+", "-"


def script_share(text: str, code: str) -> float | None:
    """The share of letters that are of the language's own scripts; None for a text without letters.

    Digits, punctuation and marks are nobody's, so they do not count.

    Raises:
        RequestError: we do not know the code.
    """
    letters = text.translate(_judge(find_language(code).scripts))
    return letters.count(_EXPECTED) / len(letters) if letters else None


def direction(code: str) -> str:
    """`rtl` or `ltr`: how a language is written. A text's own letters do not tell: one in Hebrew may begin in Latin.

    Raises:
        RequestError: we do not know the code.
    """
    return "rtl" if {"HEBREW", "ARABIC"} & set(find_language(code).scripts) else "ltr"


@cache
def _judge(scripts: tuple[str, ...]) -> CharacterMap:
    """A table that leaves a sign for each letter, and nothing of the rest."""

    def replace(character: str) -> str:
        if unicodedata.category(character)[0] != "L":
            return ""
        return _EXPECTED if _name_words(character) & set(scripts) else _OTHER

    return CharacterMap(replace)


def _name_words(letter: str) -> set[str]:
    """`HEBREW`, `LETTER`, `ALEF`: the standard library knows no scripts, but Unicode names letters by theirs.

    Letters with a compatibility form (mathematical, raised, of a phonetic alphabet) go by the names of both.
    """
    names = (unicodedata.name(each, "") for each in letter + unicodedata.normalize("NFKC", letter))
    return set(" ".join(names).replace("-", " ").split())
