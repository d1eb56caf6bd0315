"""Scores that forgive what some readers would not call an error. Never the headline: they forgive true errors too.

Each function takes a reference and a hypothesis as they are scored, and gives both as they are compared instead.
"""

from collections.abc import Callable, Mapping

from caspi.text.hebrew_numbers import read_numbers
from caspi.text.hebrew_spelling import differ_in_vowel_letters

LANGUAGES = ("he",)
"""ISO 639 codes of the languages that these are for."""


def numbers(reference: str, hypothesis: str) -> tuple[str, str]:
    """`3` and `שלוש` are the same."""
    return read_numbers(reference), read_numbers(hypothesis)


def spelling(reference: str, hypothesis: str) -> tuple[str, str]:
    """`תכנית` and `תוכנית`, ktiv haser and ktiv male, are the same: as the reference has it."""
    said = set(reference.split())
    words = [
        word if word in said else next((other for other in sorted(said) if differ_in_vowel_letters(word, other)), word)
        for word in hypothesis.split()
    ]
    return reference, " ".join(words)


KINDS: Mapping[str, Callable[[str, str], tuple[str, str]]] = {
    "lenient_numbers": numbers,
    "lenient_spelling": spelling,
}
"""Name of the score in metrics.json -> what forgives."""
