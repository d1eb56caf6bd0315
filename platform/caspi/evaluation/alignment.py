"""Texts against their references, word by word and letter by letter, many at once: what reports show and count."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jiwer

HIT, SUBSTITUTION, DELETION, INSERTION = "=", "S", "D", "I"

_OPERATIONS = {"equal": HIT, "substitute": SUBSTITUTION, "delete": DELETION, "insert": INSERTION}


def operations(references: Sequence[str], hypotheses: Sequence[str]) -> list[str]:
    """What happened to each word, from the first to the last, as one character each: `=`, `S`, `D` or `I`.

    `==D` says that two words were heard as they were said and a third was not heard. The alignment is the one that the
    counts of `caspi.evaluation.metrics` come from; texts are compared as they are.
    """
    return _align(jiwer.process_words, references, hypotheses)


def pairs(reference: str, hypothesis: str, operations: str) -> list[tuple[str, str]]:
    """(said, heard) for each of the `operations` on two texts; one of them is empty in deletions and insertions."""
    said, heard = iter(reference.split()), iter(hypothesis.split())
    return [(next(said) if each != INSERTION else "", next(heard) if each != DELETION else "") for each in operations]


@dataclass(frozen=True, slots=True)
class Confusion:
    """What was said, and what was heard instead. One of the two may be empty."""

    said: str
    heard: str
    count: int
    num_said: int
    """How often `said` occurs in the references in all; 0 for what was never said."""


@dataclass(frozen=True, slots=True)
class Confusions:
    """The most frequent confusions of each kind, most frequent first."""

    substitutions: tuple[Confusion, ...]
    deletions: tuple[Confusion, ...]
    insertions: tuple[Confusion, ...]
    letters: tuple[Confusion, ...]
    """Letters within words that were heard as similar ones: at least half of the word was right."""


def count_confusions(
    references: Sequence[str], hypotheses: Sequence[str], operations: Sequence[str], *, most: int = 25
) -> Confusions:
    """Which words and letters are heard as which others, `most` of each kind."""
    words = Counter(word for reference in references for word in reference.split())
    found: Counter[tuple[str, str]] = Counter()
    for texts in zip(references, hypotheses, operations, strict=True):
        found.update((said, heard) for said, heard in pairs(*texts) if said != heard)
    ranked = [Confusion(said, heard, count, words[said]) for (said, heard), count in _ranked(found)]
    letters = Counter("".join(references))
    return Confusions(
        tuple(each for each in ranked if each.said and each.heard)[:most],
        tuple(each for each in ranked if not each.heard)[:most],
        tuple(each for each in ranked if not each.said)[:most],
        tuple(
            Confusion(said, heard, count, letters[said])
            for (said, heard), count in _ranked(_confused_letters(found))[:most]
        ),
    )


def _confused_letters(words: Counter[tuple[str, str]]) -> Counter[tuple[str, str]]:
    replaced = [(said, heard) for said, heard in words if said and heard]
    aligned = _align(jiwer.process_characters, [said for said, _ in replaced], [heard for _, heard in replaced])
    found: Counter[tuple[str, str]] = Counter()
    for (said, heard), letters in zip(replaced, aligned, strict=True):
        # Of words that have little in common, an alignment of letters says nothing.
        if 2 * letters.count(HIT) >= len(letters):
            for pair in pairs(" ".join(said), " ".join(heard), letters):
                if pair[0] != pair[1]:
                    found[pair] += words[said, heard]
    return found


def _align(process: Callable[..., Any], references: Sequence[str], hypotheses: Sequence[str]) -> list[str]:
    if not references:
        return []
    found = []
    for chunks in process(list(references), list(hypotheses)).alignments:
        # An insertion has no reference, a deletion no hypothesis, the others have as much of both.
        lengths = (max(each.ref_end_idx - each.ref_start_idx, each.hyp_end_idx - each.hyp_start_idx) for each in chunks)
        found.append("".join(_OPERATIONS[each.type] * length for each, length in zip(chunks, lengths, strict=True)))
    return found


def _ranked(counts: Counter[tuple[str, str]]) -> list[tuple[tuple[str, str], int]]:
    """Most frequent first, ties in the order of the alphabet, so that the same texts give the same page."""
    return sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))
