"""Text of each language: what the model learns to write, and what WER compares.

normalizer("he").transcript("צה״ל  הודיע!!")   'צה"ל הודיע!'
normalizer("he").scoring("צה״ל  הודיע!!")      'צהל הודיע'
"""

from caspi.text.languages import LANGUAGE_NAMES, language_code, language_name, normalizer
from caspi.text.normalizer import Normalizer

__all__ = ["LANGUAGE_NAMES", "Normalizer", "language_code", "language_name", "normalizer"]
