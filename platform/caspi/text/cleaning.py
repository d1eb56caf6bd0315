"""Steps that the languages share."""

import re
import unicodedata
from collections.abc import Callable

# Chat and time tokens, `<|im_end|>` and `<|2.40|>`, and angle tags, `<asr_text>`, `</think>`: in a transcript the
# tokenizer would take them for the real thing, and nobody speaks them. A joiner behind one joins nothing.
_TOKEN = re.compile(r"(?:<\|[^<>]*\|>|</?[A-Za-z][A-Za-z0-9_]*>)[\u200c\u200d]*")

# A run of one mark says no more than the mark.
_RUN = re.compile(r"([.,!?;:\"'؟،؛。，！？–—-])\1+")

DOUBLE_QUOTES = "״“”„‟″‶＂ʺ"
"""What people type for gershayim and for quotation marks; we write the ASCII one, as most transcripts do."""

SINGLE_QUOTES = "׳‘’‚‛′‵´`＇ʹʼ"
"""What people type for geresh and apostrophe."""

_QUOTES = frozenset("\"'" + DOUBLE_QUOTES + SINGLE_QUOTES)

_HYPHENS = "\u2010\u2011"  # hyphen, and the one that does not break a line; the ASCII one is on every keyboard

# Unicode's Default_Ignorable_Code_Point beyond the format controls: grapheme joiner, variation selectors, and fillers
# that are letters by category. None shows, and between the pieces of a token they would hide it.
_INVISIBLE = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u3164\uffa0").union(
    *(map(chr, range(first, last + 1)) for first, last in ((0x180B, 0x180F), (0xFE00, 0xFE0F), (0xE0100, 0xE01EF)))
)

# Blank in print: the Braille pattern without dots, and what stands where an attachment was.
_BLANK = "\u2800\ufffc"

# Signs that show, though they count as format controls: Arabic number signs, the end of a verse, and their like.
_VISIBLE_FORMAT = frozenset([*map(chr, range(0x0600, 0x0606)), "\u06dd", "\u070f", "\u0890", "\u0891", "\u08e2"])


class CharacterMap(dict[int, str]):
    """A table for `str.translate` that asks `replace` once for each character it meets."""

    def __init__(self, replace: Callable[[str], str]) -> None:
        super().__init__()
        self._replace = replace

    def __missing__(self, code: int) -> str:
        self[code] = replacement = self._replace(chr(code))
        return replacement


def clean_character(character: str) -> str:
    """One spelling of quotes, spaces for white space and control characters, nothing for what is invisible."""
    if character in DOUBLE_QUOTES:
        return '"'
    if character in SINGLE_QUOTES:
        return "'"
    if character in _HYPHENS:
        return "-"
    if character == "…":
        return "..."
    category = unicodedata.category(character)
    if character.isspace() or category == "Cc" or character in _BLANK or character in _VISIBLE_FORMAT:
        return " "
    # Format controls (bidi marks, soft hyphen, joiners, tags) and lone surrogates, which no file could hold.
    if category in ("Cf", "Cs") or character in _INVISIBLE:
        return ""
    return character


# One character for one, so that a place in the plain text is the same place in the text.
_PLAIN = CharacterMap(lambda character: unicodedata.normalize("NFKC", character)[0])


def remove_tokens(text: str) -> str:
    """Put a space where a token stood, so that the words beside it stay apart, and single spaces everywhere.

    A token in fullwidth letters goes too: whoever normalizes our text by NFKC would turn it into the real one.
    """
    # Again until none is left: taking one out may leave another, `<|<|x|>|>`.
    while spans := [match.span() for match in _TOKEN.finditer(text if text.isascii() else text.translate(_PLAIN))]:
        for start, end in reversed(spans):
            text = f"{text[:start]} {text[end:]}"
    return " ".join(text.split())


def collapse_runs(text: str) -> str:
    """`!!!` becomes `!`, and two apostrophes the quotation mark that they were typed for."""
    return _RUN.sub(r"\1", text.replace("''", '"'))


_NOTHING = "\x00"  # for a moment, where a quote was; control characters are long gone


def _score_character(character: str) -> str:
    category = unicodedata.category(character)
    if character in _QUOTES or category == "Me":
        return _NOTHING  # צה"ל is one word; a keycap or a circle around a digit says nothing
    return " " if category[0] in "PS" else character


_SCORE = CharacterMap(_score_character)


def compare_form(text: str) -> str:
    """Compatibility form, case folded, quotes deleted, every other punctuation mark and symbol a space.

    Of a text without control characters, such as any transcript.
    """
    # Case folding may leave a form that NFKC changes again, and the other way round.
    while (folded := unicodedata.normalize("NFKC", text).casefold()) != text:
        text = folded
    words = ("".join(map(_without_stray_marks, word.split(_NOTHING))) for word in text.translate(_SCORE).split())
    return unicodedata.normalize("NFKC", " ".join(word for word in words if word))


def _without_stray_marks(part: str) -> str:
    """A mark at the beginning has no letter: it stood on a quote or a symbol, or was opened from one (`¨`)."""
    start = 0
    while start < len(part) and unicodedata.category(part[start])[0] == "M":
        start += 1
    return part[start:]
