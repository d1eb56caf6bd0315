"""Arabic. Vowel signs and tatweel go, as in the newspapers; letters stay as they were written.

- **Letters.** Alef with and without hamza, final yeh and alef maksura, heh and teh marbuta are not folded into one
  another, not even for scoring: they are different letters in different words, and what a reader would call a mistake
  should count as one. Alef wasla (U+0671) is alef with a sign that only vocalised text has, so it becomes alef.
- **Digits.** `٣` and `۳` become `3`, and `٫ ٬ ٪` become `. , %`: the same number in the form that most text has.
- **Punctuation.** `؟ ، ؛` stay in the transcript: they are how Arabic is written.
"""

import unicodedata

from caspi.text.cleaning import CharacterMap, clean_character, collapse_runs, compare_form, remove_tokens
from caspi.text.language import Language

_TATWEEL = "\u0640"

# Vowel signs, doubling, the dagger alef, and the signs of the Quran. Hamza above and below, 0654 and 0655, are not
# among them: with their letter they make another one.
_SIGNS = (
    (0x0610, 0x061A), (0x064B, 0x0653), (0x0656, 0x065F), (0x0670, 0x0670), (0x06D6, 0x06DC), (0x06DF, 0x06E8),
    (0x06EA, 0x06ED), (0x08CA, 0x08E1), (0x08E3, 0x08FF),
)  # fmt: skip
_MARKS = frozenset(chr(code) for first, last in _SIGNS for code in range(first, last + 1))

_OTHER_SPELLINGS = {"ٱ": "ا", "٫": ".", "٬": ",", "٪": "%", "\u06de": " ", "\u06e9": " "}


def _replace(character: str) -> str:
    if "\ufb50" <= character <= "\ufdff" or "\ufe70" <= character <= "\ufefc":
        return _open_form(character)
    if character in _MARKS or character == _TATWEEL:
        return ""
    if "\u0660" <= character <= "\u0669" or "\u06f0" <= character <= "\u06f9":
        return str(unicodedata.digit(character))
    return _OTHER_SPELLINGS.get(character) or clean_character(character)


def _open_form(character: str) -> str:
    """The letters of a presentation form. Signs are kept on a space there, which is no space between words."""
    opened = unicodedata.normalize("NFKC", character)
    letters = "".join(map(_replace, opened.strip())) if opened != character else clean_character(character)
    # A whole formula as one character, `ﷺ`, stands for words of its own, also where nobody typed a space.
    return f" {letters} " if " " in letters else letters


_REPLACE = CharacterMap(_replace)


class ArabicNormalizer:
    """What was written, with one spelling for each letter, digit and quotation mark."""

    def transcript(self, text: str) -> str:
        """No vowel signs, no tatweel, no presentation forms, ASCII digits and quotes, no markup, single spaces."""
        text = unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).translate(_REPLACE))
        return remove_tokens(collapse_runs(text))

    def scoring(self, text: str) -> str:
        """Letters, digits and single spaces."""
        return compare_form(self.transcript(text))


LANGUAGE = Language(code="ar", name="Arabic", scripts=("ARABIC",), normalizer=ArabicNormalizer())
