"""Hebrew. Points and accents go, whatever form they come in; words never glue together and never fall apart."""

import re
import unicodedata

from caspi.text.cleaning import CharacterMap, collapse_runs, compare_form, remove_tokens
from caspi.text.hebrew_script import DIGRAPHS, MARKS, clean_hebrew_character, open_form
from caspi.text.ivrit import IvritNormalizer
from caspi.text.language import Language

_REPLACE = CharacterMap(
    lambda character: "".join("" if part in MARKS else clean_hebrew_character(part) for part in open_form(character))
)

# Accents from other blocks, as dictionaries put them over the stressed letter.
_ACCENTS = re.compile("(?<=[א-תװ-ײ])[\u0300-\u036f]+")

_WITHOUT_DIGRAPHS = str.maketrans(DIGRAPHS)


class HebrewNormalizer:
    """Spelling (ktiv male or haser), final letters and digits stay as they are: they are what was written."""

    def transcript(self, text: str) -> str:
        """No niqqud and no accents; `"` and `'` for gershayim and geresh; `-` for maqaf; no markup; single spaces."""
        # NFC before, for characters that stand for another one (U+037E is a semicolon); after, for what came together.
        text = unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).translate(_REPLACE))
        return remove_tokens(collapse_runs(_ACCENTS.sub("", text)))

    def scoring(self, text: str) -> str:
        """Letters, digits and single spaces. Starts from the transcript, so both see the same words."""
        return compare_form(self.transcript(text)).translate(_WITHOUT_DIGRAPHS)


LANGUAGE = Language(
    code="he",
    name="Hebrew",
    scripts=("HEBREW",),
    normalizer=HebrewNormalizer(),
    styles={"ivrit": IvritNormalizer(HebrewNormalizer())},
)
