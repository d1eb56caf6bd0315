"""What the languages in Hebrew letters share."""

import unicodedata

from caspi.text.cleaning import clean_character

# Points and accents. Between them lie maqaf 05BE, paseq 05C0, sof pasuq 05C3 and nun hafukha 05C6, which are neither.
MARKS = frozenset(
    [*map(chr, range(0x0591, 0x05BE)), "\u05bf", "\u05c1", "\u05c2", "\u05c4", "\u05c5", "\u05c7", "\ufb1e"]
)

DIGRAPHS = {"װ": "וו", "ױ": "וי", "ײ": "יי"}
"""Yiddish pairs of letters that Unicode also has as one; most people type two."""

_MAQAF, _PASEQ, _NUN_HAFUKHA = "\u05be", "\u05c0", "\u05c6"


def open_form(character: str) -> str:
    """The letters and marks of a presentation form, one by one.

    NFKC on the whole text would also change digits and signs that people wrote.
    """
    return unicodedata.normalize("NFKC", character) if "\ufb1d" <= character <= "\ufb4f" else character


def clean_hebrew_character(character: str) -> str:
    """As in any language, and `-` for maqaf, a space for paseq and nun hafukha, which stand between words."""
    if character == _MAQAF:
        return "-"
    if character in (_PASEQ, _NUN_HAFUKHA):
        return " "
    return clean_character(character)
