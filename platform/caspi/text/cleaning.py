"""Steps that the languages share."""

import re
import unicodedata
from collections.abc import Callable

# Chat and time tokens, `<|im_end|>` and `<|2.40|>`, and angle tags, `<asr_text>`, `</think>`: in a transcript the
# tokenizer would take them for the real thing, and nobody speaks them.
_TOKEN = re.compile(r"<\|[^<>]*\|>|</?[A-Za-z][A-Za-z0-9_]*>")

# A run of one mark says no more than the mark.
_RUN = re.compile(r"([.,!?;:\"'-])\1+")

DOUBLE_QUOTES = "״“”„‟″‶"
"""What people type for gershayim and for quotation marks; we write the ASCII one, as most transcripts do."""

SINGLE_QUOTES = "׳‘’‚‛′‵´`"
"""What people type for geresh and apostrophe."""

_QUOTES = frozenset("\"'" + DOUBLE_QUOTES + SINGLE_QUOTES)


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
    if character == "…":
        return "..."
    category = unicodedata.category(character)
    if character.isspace() or category == "Cc":
        return " "
    # Format controls (bidi marks, soft hyphen, joiners), lone surrogates, the grapheme joiner, variation selectors.
    if category in ("Cf", "Cs") or character == "\u034f" or "\ufe00" <= character <= "\ufe0f":
        return ""
    return character


def remove_tokens(text: str) -> str:
    """Put a space where a token stood, so that the words beside it stay apart, and single spaces everywhere."""
    # Again until none is left: taking one out may leave another, `<|<|x|>|>`.
    while (without := _TOKEN.sub(" ", text)) != text:
        text = without
    return " ".join(text.split())


def collapse_runs(text: str) -> str:
    """`!!!` becomes `!`, and two apostrophes the quotation mark that they were typed for."""
    return _RUN.sub(r"\1", text.replace("''", '"'))


def _score_character(character: str) -> str:
    if character in _QUOTES:
        return ""  # צה"ל is one word
    return " " if unicodedata.category(character)[0] in "PS" else character


_SCORE = CharacterMap(_score_character)


def compare_form(text: str) -> str:
    """Compatibility form, case folded, quotes deleted, every other punctuation mark and symbol a space."""
    # Case folding may leave a form that NFKC changes again, and the other way round.
    while (folded := unicodedata.normalize("NFKC", text).casefold()) != text:
        text = folded
    return " ".join(text.translate(_SCORE).split())
