"""Hebrew. Points and accents go, whatever form they come in; words never glue together and never fall apart."""

import unicodedata

from caspi.text.cleaning import CharacterMap, clean_character, collapse_runs, compare_form, remove_tokens

# Points and accents. Between them lie maqaf 05BE, paseq 05C0, sof pasuq 05C3 and nun hafukha 05C6, which are neither.
_MARKS = frozenset(
    [*map(chr, range(0x0591, 0x05BE)), "\u05bf", "\u05c1", "\u05c2", "\u05c4", "\u05c5", "\u05c7", "\ufb1e"]
)

_MAQAF, _PASEQ, _NUN_HAFUKHA = "\u05be", "\u05c0", "\u05c6"


def _replace(character: str) -> str:
    if "\ufb1d" <= character <= "\ufb4f":
        # Presentation forms, opened one by one: NFKC on the whole would change digits and signs that people wrote.
        character = unicodedata.normalize("NFKC", character)
    return "".join(_replace_plain(part) for part in character)


def _replace_plain(character: str) -> str:
    if character in _MARKS:
        return ""
    if character == _MAQAF:
        return "-"
    if character in (_PASEQ, _NUN_HAFUKHA):
        return " "
    return clean_character(character)


_REPLACE = CharacterMap(_replace)


class HebrewNormalizer:
    """Spelling (ktiv male or haser), final letters and digits stay as they are: they are what was written."""

    def transcript(self, text: str) -> str:
        """No niqqud and no accents; `"` and `'` for gershayim and geresh; `-` for maqaf; no markup; single spaces."""
        # NFC before, for characters that stand for another one (U+037E is a semicolon); after, for what came together.
        text = unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).translate(_REPLACE))
        return remove_tokens(collapse_runs(text))

    def scoring(self, text: str) -> str:
        """Letters, digits and single spaces. Starts from the transcript, so both see the same words."""
        return compare_form(self.transcript(text))
