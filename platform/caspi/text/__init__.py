"""Text of each language: what the model learns to write, and what WER compares.

normalizer("he").transcript("צה״ל  הודיע!!")        'צה"ל הודיע!'
normalizer("he").scoring("צה״ל  הודיע!!")           'צהל הודיע'
normalizer("he", "ivrit").scoring("צה״ל הודיע!!")   'צה ל הודיע ', as ivrit.ai's evaluation scores it
script_share("שלום world 7", "he")                  0.44...
"""

from caspi.text.normalizer import Normalizer
from caspi.text.registry import LANGUAGE_NAMES, language_code, language_name, normalizer
from caspi.text.script import direction, script_share

__all__ = ["LANGUAGE_NAMES", "Normalizer", "direction", "language_code", "language_name", "normalizer", "script_share"]
