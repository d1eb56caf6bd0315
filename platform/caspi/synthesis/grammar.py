"""Sentences of three to seven words, mostly four or five: each one new, and every word about as often as its like."""

import random
from collections import Counter
from dataclasses import dataclass

from caspi.errors import RequestError
from caspi.synthesis.vocabulary import FUNCTION_WORDS, GROUPS, Word

# How often, and which slots. A slot is a group of the vocabulary or a word that stands for itself. `subject` agrees
# with the verb after it; `thing`, `food` and `things` with the adjective after or the number before them.
PATTERNS: tuple[tuple[int, str], ...] = (
    (8, "subject verb thing"),
    (10, "subject verb thing adjective"),
    (10, "subject verb thing adjective place"),
    (10, "time subject verb thing adjective"),
    (6, "subject verb thing place time"),
    (10, "subject verb את person place"),
    (4, "subject verb את person time"),
    (18, "subject verb number things place"),
    (18, "time subject verb number things"),
    (12, "subject eats food adjective place"),
    (8, "subject לא eats food adjective"),
    (9, "subject moves place time"),
    (7, "subject moves עם person place"),
    (5, "time subject לא moves place"),
    (5, "גם subject verb thing adjective"),
    (5, "גם person moves place"),
    (4, "מי verb_m thing adjective ?"),
    (4, "איפה moves subject time ?"),
    (4, "מתי subject verb thing adjective ?"),
    (5, "למה subject לא verb את person ?"),
    (5, "שלום person איפה person ?"),
    (5, "תודה רבה person על thing adjective !"),
)

_GENDERED = frozenset(name[:-2] for name in GROUPS if name.endswith("_m"))


@dataclass(frozen=True, slots=True)
class Sentence:
    """Words in spoken order and the mark that closes them."""

    words: tuple[Word, ...]
    ending: str
    """`?`, `!`, or nothing for a statement. Fixed by the first word, so that a listener can tell it."""

    @property
    def plain(self) -> str:
        """The transcript in its one plain spelling."""
        return " ".join(word.plain for word in self.words) + self.ending


class Grammar:
    """A seeded stream of sentences that never repeats itself."""

    def __init__(self, rng: random.Random):
        self._rng = rng
        self._uses: Counter[Word] = Counter()
        self._seen: set[tuple[Word, ...]] = set()

    def sentence(self) -> Sentence:
        """A sentence that this grammar has not given before.

        Raises:
            RequestError: a thousand tries in a row gave sentences that are taken.
        """
        for _ in range(1000):
            sentence = self._draw()
            if sentence.words not in self._seen:
                self._seen.add(sentence.words)
                self._uses.update(sentence.words)
                return sentence
        raise RequestError(f"the grammar ran out of new sentences after {len(self._seen)}; ask for fewer utterances")

    def _draw(self) -> Sentence:
        (pattern,) = self._rng.choices([pattern for _, pattern in PATTERNS], [weight for weight, _ in PATTERNS])
        slots = pattern.split()
        ending = slots.pop() if slots[-1] in "?!" else ""
        subject, thing = self._rng.choices("mf", k=2)
        words: list[Word] = []
        for slot in slots:
            if slot in ("subject", "person"):
                # `person` is somebody else: its gender is drawn anew.
                words += self._person(subject if slot == "subject" else self._rng.choice("mf"), taken=words)
            elif slot in FUNCTION_WORDS:
                words.append(FUNCTION_WORDS[slot])
            elif slot in _GENDERED:
                gender = subject if slot in ("verb", "eats", "moves") else thing
                words.append(self._pick(f"{slot}_{gender}"))
            else:
                words.append(self._pick(slot))
        return Sentence(tuple(words), ending)

    def _person(self, gender: str, taken: list[Word]) -> list[Word]:
        """Somebody who is not in the sentence yet. Every tenth man is a doctor with a surname."""
        if gender == "m" and self._rng.random() < 1 / 10:
            doctor = [self._pick("doctor_m"), self._pick("surname_m")]
            if doctor[0] not in taken:
                return doctor
        while True:
            person = self._pick(f"person_{gender}")
            if person not in taken:
                return [person]

    def _pick(self, group: str) -> Word:
        """A word of the group, the rarer so far the likelier: a word heard five times would not be learnt."""
        words = GROUPS[group]
        return self._rng.choices(words, [1 / (1 + self._uses[word]) ** 2 for word in words])[0]
