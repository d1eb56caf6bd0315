"""Yiddish. Points are part of its letters: `אַ` is a, `אָ` is o; so unlike in Hebrew they stay, also for scoring.

Each pointed letter has several encodings that look the same: one code point (U+FB2E), a letter and a point, with two
points in either order. We write letter and point, in canonical order. There is no choice: Unicode excludes the single
code points from composition, so NFC opens them, and Qwen's tokenizer applies NFC to whatever it is given.

The digraphs `װ ױ ײ` are opened into the two letters that most keyboards type. The other way round would have to guess
which `וו` in `וווּ` is the digraph. The point of `ײַ` comes to stand under the second yud, as people type it: `ייַ`.
"""

import re
import unicodedata

from caspi.text.cleaning import CharacterMap, collapse_runs, compare_form, remove_tokens
from caspi.text.hebrew_script import DIGRAPHS, MARKS, clean_hebrew_character, open_form
from caspi.text.language import Language

_REPLACE = CharacterMap(
    lambda character: "".join(DIGRAPHS.get(part) or clean_hebrew_character(part) for part in open_form(character))
)

# The alphabet of YIVO. Words of Hebrew origin are sometimes pointed in full; there, the rest is no letter's part.
_HIRIQ, _PATAH, _QAMATS, _DAGESH, _RAFE, _SIN_DOT = "\u05b4\u05b7\u05b8\u05bc\u05bf\u05c2"
_POINTS = {
    "א": _PATAH + _QAMATS,
    "ב": _RAFE,
    "ו": _DAGESH,
    "י": _HIRIQ + _PATAH,
    "כ": _DAGESH,
    "פ": _DAGESH + _RAFE,
    "ף": _RAFE,
    "ש": _SIN_DOT,
    "ת": _DAGESH,
}

_MARKED = re.compile("([^{0}]?)([{0}]+)".format("".join(sorted(MARKS))))


def _keep_points(match: re.Match[str]) -> str:
    letter, marks = match.groups()
    return letter + "".join(mark for mark in dict.fromkeys(marks) if mark in _POINTS.get(letter, ""))


class YiddishNormalizer:
    """Spelling stays as it is, YIVO's or another; only what is encoded in several ways is written in one."""

    def transcript(self, text: str) -> str:
        """Letters with the points that belong to them; ASCII quotes and hyphen; no accents; no markup."""
        text = unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).translate(_REPLACE))
        text = unicodedata.normalize("NFC", _MARKED.sub(_keep_points, text))
        return remove_tokens(collapse_runs(text))

    def scoring(self, text: str) -> str:
        """Letters with their points, digits and single spaces."""
        return compare_form(self.transcript(text))


LANGUAGE = Language(code="yi", name="Yiddish", scripts=("HEBREW",), normalizer=YiddishNormalizer())
