"""Contexts for training, so that the model knows prompts when it serves: key terms, or what was said just before.

A model that has never seen a context ignores it, and one that has seen only the truth in it repeats it. So most
utterances have none, and key terms are mixed with words that are not said.
"""

import bisect
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from caspi.model import Prompter
from caspi.recipe.sections import Context

_WORD = re.compile(r"\w(?:[\w'\"’׳״-]*\w)?")
_MIN_LETTERS = 3  # shorter words are seldom what somebody would ask for

_MAX_OWN_TERMS = 3
_MAX_OTHER_TERMS = 8
_ALL_OTHERS_SHARE = 0.2  # of key terms: none of them is said


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The terms of some texts, and how often each occurs."""

    counts: Counter[str]
    terms: tuple[str, ...]  # each once, in the order in which they came up

    @classmethod
    def of(cls, texts: Iterable[str]) -> "Vocabulary":
        counts = Counter(term for text in texts for term in terms_of(text))
        return cls(counts, tuple(counts))


def terms_of(text: str) -> list[str]:
    """The words that may be key terms, without the punctuation around them."""
    return [word for word in _WORD.findall(text) if len(word) >= _MIN_LETTERS]


@dataclass(frozen=True)
class ContextMaker:
    """Draws contexts."""

    settings: Context
    prompter: Prompter

    def make(self, text: str, previous_text: str | None, vocabulary: Vocabulary, random: np.random.Generator) -> str:
        """The context of one utterance, empty for most; never more tokens than `max_tokens`.

        Args:
            vocabulary: of utterances that are near in the corpus: where terms that are not said come from.
        """
        if random.random() >= self.settings.share:
            return ""
        wants_terms = random.random() < self.settings.key_term_share
        if previous_text and not wants_terms:
            return self._end_of(previous_text)
        return self._join(self._key_terms(text, vocabulary, random)) if vocabulary.terms else ""

    def _key_terms(self, text: str, vocabulary: Vocabulary, random: np.random.Generator) -> list[str]:
        """Terms of the text, rare and long ones before others, among terms that do not occur in it, shuffled."""
        said = set(terms_of(text))
        own = sorted(said, key=lambda term: (vocabulary.counts[term], -len(term), term))
        num_own = 0 if random.random() < _ALL_OTHERS_SHARE else int(random.integers(1, _MAX_OWN_TERMS + 1))
        places = random.integers(0, len(vocabulary.terms), int(random.integers(1, _MAX_OTHER_TERMS + 1)))
        others = {vocabulary.terms[place]: None for place in places}  # each once, in order
        terms = own[:num_own] + [term for term in others if term not in said]
        return [terms[place] for place in random.permutation(len(terms))]

    def _join(self, terms: Sequence[str]) -> str:
        """As many terms as fit."""
        context = ""
        for term in terms:
            longer = f"{context}, {term}" if context else term
            if self._num_tokens(longer) <= self.settings.max_tokens:
                context = longer
        return context

    def _end_of(self, text: str) -> str:
        """The last words that fit."""
        words = text.split()
        most = bisect.bisect_right(
            range(1, len(words) + 1),
            self.settings.max_tokens,
            key=lambda count: self._num_tokens(" ".join(words[-count:])),
        )
        return " ".join(words[len(words) - most :])

    def _num_tokens(self, context: str) -> int:
        """What a context adds to the prompt."""
        return len(self.prompter.prompt(0, context=context)) - len(self.prompter.prompt(0))
