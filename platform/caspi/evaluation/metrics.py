"""Word and character error rates, pooled, with the counts and an interval. Plain functions of texts; no Ray, no audio.

Legend: `U` utterances.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import jiwer
import numpy as np

from caspi import text
from caspi.errors import RequestError
from caspi.evaluation.intervals import Interval, interval, rate


@dataclass(frozen=True, slots=True)
class Score:
    """How far hypotheses are from their references. Rates are fractions: 0.12 is 12%.

    Rates are pooled: all errors over all reference words, so that a long utterance counts for more than a short one.
    Words that were invented where the reference is empty count as insertions. Without a single reference word there is
    nothing to divide by, and the rate is the number of inserted words (or characters): 0 is still perfect.
    """

    wer: float
    cer: float
    """As `wer`, over characters; a space is a character."""
    substitutions: int
    deletions: int
    insertions: int
    hits: int
    reference_words: int
    wer_interval: Interval | None
    """95% interval of `wer`, see `intervals.interval`; None where nothing is known of the spread: with one cluster."""
    cer_interval: Interval | None
    num_utterances: int


@dataclass(frozen=True, slots=True)
class ErrorCounts:
    """Errors of each utterance, as int64 arrays (U,)."""

    substitutions: np.ndarray
    deletions: np.ndarray
    insertions: np.ndarray
    hits: np.ndarray
    character_errors: np.ndarray
    reference_characters: np.ndarray

    @property
    def word_errors(self) -> np.ndarray:
        errors: np.ndarray = self.substitutions + self.deletions + self.insertions
        return errors

    @property
    def reference_words(self) -> np.ndarray:
        words: np.ndarray = self.hits + self.substitutions + self.deletions
        return words

    def __len__(self) -> int:
        return len(self.hits)

    def select(self, mask: np.ndarray) -> "ErrorCounts":
        """The counts of some utterances, by a boolean mask or by positions."""
        return ErrorCounts(*(getattr(self, name)[mask] for name in self.__slots__))


@dataclass(frozen=True, slots=True)
class Difference:
    """A piece of an alignment: what was said and what was heard there, in words. One of the two may be empty."""

    reference: str
    hypothesis: str

    @property
    def kind(self) -> str:
        """`hit`, `substitution`, `deletion` or `insertion`."""
        if not self.hypothesis:
            return "deletion"
        if not self.reference:
            return "insertion"
        return "hit" if self.reference == self.hypothesis else "substitution"


def score(
    references: Sequence[str],
    hypotheses: Sequence[str],
    language: str = "he",
    *,
    clusters: Sequence[Hashable] | None = None,
) -> Score:
    """Compare texts after the language's scoring normalization, which drops punctuation and variants of marks.

    Args:
        clusters: what each utterance comes from, for instance its recording. Utterances of one recording err together,
            so the interval resamples whole clusters. Default: every utterance stands for itself.

    Raises:
        RequestError: there is nothing to compare, or the lists differ in length, or the language is unknown.
    """
    scoring = text.normalizer(language).scoring
    counts = count_errors([scoring(each) for each in references], [scoring(each) for each in hypotheses])
    return pool(counts, clusters=clusters)


def count_errors(references: Sequence[str], hypotheses: Sequence[str]) -> ErrorCounts:
    """Count each utterance's errors. Texts are compared as they are; `score` normalizes first.

    Raises:
        RequestError: there is nothing to compare, or the lists differ in length.
    """
    if len(references) != len(hypotheses):
        raise RequestError(
            f"{len(references)} references and {len(hypotheses)} hypotheses; expected one hypothesis for each "
            "reference, an empty one where nothing was heard"
        )
    if not references:
        raise RequestError("no references to score; expected at least one utterance")
    words = jiwer.process_words(list(references), list(hypotheses))
    characters = jiwer.process_characters(list(references), list(hypotheses))
    substitutions, deletions, insertions, hits = _counts(words.alignments).T
    character_counts = _counts(characters.alignments)
    return ErrorCounts(
        substitutions,
        deletions,
        insertions,
        hits,
        character_errors=character_counts[:, :3].sum(1),
        reference_characters=character_counts[:, [0, 1, 3]].sum(1),
    )


def pool(counts: ErrorCounts, *, clusters: Sequence[Hashable] | None = None) -> Score:
    """Add up counts and divide once.

    Raises:
        RequestError: there are no counts, or not one cluster for each.
    """
    if not len(counts):
        raise RequestError("no utterances to pool; expected at least one")
    if clusters is not None and len(clusters) != len(counts):
        raise RequestError(f"{len(clusters)} clusters for {len(counts)} utterances; expected one for each")
    return Score(
        wer=float(rate(counts.word_errors.sum(), counts.reference_words.sum())),
        cer=float(rate(counts.character_errors.sum(), counts.reference_characters.sum())),
        substitutions=int(counts.substitutions.sum()),
        deletions=int(counts.deletions.sum()),
        insertions=int(counts.insertions.sum()),
        hits=int(counts.hits.sum()),
        reference_words=int(counts.reference_words.sum()),
        wer_interval=interval(counts.word_errors, counts.reference_words, clusters=clusters),
        cer_interval=interval(counts.character_errors, counts.reference_characters, clusters=clusters),
        num_utterances=len(counts),
    )


def align(reference: str, hypothesis: str) -> list[Difference]:
    """Two texts side by side, a word at a time, by the alignment that the counts come from."""
    result = jiwer.process_words([reference], [hypothesis])
    said, heard = result.references[0], result.hypotheses[0]
    differences = []
    for chunk in result.alignments[0]:
        references = said[chunk.ref_start_idx : chunk.ref_end_idx]
        hypotheses = heard[chunk.hyp_start_idx : chunk.hyp_end_idx]
        for position in range(max(len(references), len(hypotheses))):
            differences.append(
                Difference(
                    references[position] if position < len(references) else "",
                    hypotheses[position] if position < len(hypotheses) else "",
                )
            )
    return differences


def _counts(alignments: Sequence[Sequence[Any]]) -> np.ndarray:
    """Substitutions, deletions, insertions and hits of each alignment, (U, 4)."""
    column = {"substitute": 0, "delete": 1, "insert": 2, "equal": 3}
    counts = np.zeros((len(alignments), 4), np.int64)
    for row, chunks in enumerate(alignments):
        for chunk in chunks:
            # An insertion has no reference, a deletion no hypothesis, the others have as much of both.
            length = max(chunk.ref_end_idx - chunk.ref_start_idx, chunk.hyp_end_idx - chunk.hyp_start_idx)
            counts[row, column[chunk.type]] += length
    return counts
