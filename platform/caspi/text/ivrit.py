"""How ivrit.ai's evaluation normalizes Hebrew, step by step, so that a WER can stand beside its leaderboard.

ivrit-ai/asr-training, `evaluate_model.py`, `HebrewTextNormalizer`. It is repeated with its faults: a word written with
U+05F4 falls apart (`צה ל`), one with accents too, and words between which a token stood are glued. Never train on it.
"""

import re
import unicodedata

from caspi.text.cleaning import CharacterMap
from caspi.text.normalizer import Normalizer

# Their list of controls, and what the package `hebrew` calls niqqud; then ASCII quotes, and no others.
_CONTROLS = "\u061c\u200b\u200c\u200d\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff"
_NIQQUD = "\u05b0-\u05bc\u05c1\u05c2\u05c4\u05c5\u05c7"
_DELETED = re.compile(f"[{_CONTROLS}{_NIQQUD}\"']")

# Whisper's BasicTextNormalizer with its defaults, from here on.
_BRACKETS = re.compile(r"[<\[][^>\]]*[>\]]")
_PARENTHESES = re.compile(r"\(([^)]+?)\)")
_WHITE_SPACE = re.compile(r"\s+")
_SPACE_FOR_SIGNS = CharacterMap(lambda character: " " if unicodedata.category(character)[0] in "MSP" else character)


class IvritNormalizer:
    """For scoring texts as they were written: here `scoring(transcript(x))` need not be `scoring(x)`."""

    def __init__(self, strict: Normalizer) -> None:
        self._strict = strict

    def transcript(self, text: str) -> str:
        """The strict transcript: what a model learns to write does not depend on how it is scored."""
        return self._strict.transcript(text)

    def scoring(self, text: str) -> str:
        """Exactly theirs, so a space may stand at either end; the metrics of jiwer ignore it."""
        text = _DELETED.sub("", text).lower()
        text = _PARENTHESES.sub("", _BRACKETS.sub("", text))
        text = unicodedata.normalize("NFKC", text).translate(_SPACE_FOR_SIGNS).lower()
        return _WHITE_SPACE.sub(" ", text)
