"""Every language without a file of its own. Marks stay: in Hindi they are part of the letters."""

import re
import unicodedata

from caspi.text.cleaning import CharacterMap, clean_character, collapse_runs, compare_form, remove_tokens

# The zero-width joiner and non-joiner change letters in Persian and Hindi, so the model must learn to write them.
_JOINERS = "\u200c\u200d"

_REPLACE = CharacterMap(lambda character: character if character in _JOINERS else clean_character(character))
_WITHOUT_JOINERS = CharacterMap(lambda character: "" if character in _JOINERS else character)

# They join nothing after a space or an ASCII character, where they could only hide a token; and one does for many.
_STRAY_JOINERS = re.compile("(?<![^\\x00-\\x7f])[\u200c\u200d]+|(?<=[\u200c\u200d])[\u200c\u200d]+")


class DefaultNormalizer:
    """What holds in any script."""

    def transcript(self, text: str) -> str:
        """Composed letters, ASCII quotes, single spaces, no markup, nothing invisible but joiners."""
        text = _STRAY_JOINERS.sub("", unicodedata.normalize("NFC", text).translate(_REPLACE))
        return remove_tokens(collapse_runs(unicodedata.normalize("NFC", text)))

    def scoring(self, text: str) -> str:
        """Letters with their marks, digits and single spaces. Typists leave joiners out, so they do not count."""
        return compare_form(self.transcript(text).translate(_WITHOUT_JOINERS))
