"""Scores that forgive what some readers would not call an error. Never the headline: they forgive true errors too.

Each function takes a reference and a hypothesis as they are scored, and gives both as they are compared instead.
"""

from collections.abc import Callable, Mapping

from caspi.evaluation.metrics import align
from caspi.text.hebrew_numbers import read_numbers
from caspi.text.hebrew_spelling import differ_in_vowel_letters

LANGUAGES = ("he",)
"""ISO 639 codes of the languages that these are for."""


def numbers(reference: str, hypothesis: str) -> tuple[str, str]:
    """`3` and `שלוש` are the same."""
    return read_numbers(reference), read_numbers(hypothesis)


def spelling(reference: str, hypothesis: str) -> tuple[str, str]:
    """`תכנית` and `תוכנית`, ktiv haser and ktiv male, are the same where one stands for the other."""
    if reference == hypothesis:
        return reference, hypothesis
    words = [
        difference.reference
        if differ_in_vowel_letters(difference.reference, difference.hypothesis)
        else difference.hypothesis
        for difference in align(reference, hypothesis)
    ]
    return reference, " ".join(word for word in words if word)


KINDS: Mapping[str, Callable[[str, str], tuple[str, str]]] = {
    "lenient_numbers": numbers,
    "lenient_spelling": spelling,
}
"""Name of the score in metrics.json -> what forgives."""
