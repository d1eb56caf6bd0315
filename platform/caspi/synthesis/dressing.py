"""The many ways in which people write one sentence down. A right normalizer undoes every one of them."""

import random

from caspi.synthesis.grammar import Sentence

_GERSHAYIM = ('"', "\u05f4", "\u201d")
_GERESH = ("'", "\u05f3", "\u2019")
_MAQAF, _HYPHEN = "\u05be", "-"
# Invisible: right-to-left mark, left-to-right mark, an embedding and its end.
_BIDI_PAIRS = (("\u200f", ""), ("\u200e", "\u200f"), ("\u202b", "\u202c"), ("\u2067", "\u2069"))


def dress(sentence: Sentence, rng: random.Random) -> str:
    """The sentence as one of many transcribers would have written it.

    Differs from `sentence.plain` only in niqqud, in which characters stand for geresh, gershayim and maqaf, in spaces,
    in invisible direction marks, and in how often a closing mark is repeated. Half of all sentences are left plain.
    """
    is_pointed = rng.random() < 0.2
    words = [word.pointed if is_pointed else word.plain for word in sentence.words]
    text = " ".join(words).replace(_HYPHEN, _MAQAF)
    text = text.replace(_MAQAF, rng.choice((_MAQAF, _HYPHEN)))
    text = text.replace('"', rng.choice(_GERSHAYIM)).replace("'", rng.choice(_GERESH))
    ending = sentence.ending * (rng.randint(2, 4) if rng.random() < 0.4 else 1)
    if rng.random() < 0.12:
        text = text.replace(" ", "  ")
    if rng.random() < 0.08:
        text = f" {text}"
    if rng.random() < 0.1:
        before, after = rng.choice(_BIDI_PAIRS)
        return f"{before}{text}{after}{ending}"
    return text + ending
