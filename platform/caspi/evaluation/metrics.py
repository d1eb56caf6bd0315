"""Word and character error rates, pooled, with the counts and an interval. Plain functions of texts; no Ray, no audio.

Legend: `U` utterances, `C` clusters, `R` bootstrap replicates.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import jiwer
import numpy as np

from caspi import text
from caspi.errors import RequestError

NUM_REPLICATES = 1000
_LEAST_DEVIATION = 0.25  # of a replicate, as a share of the whole's: with five clusters it keeps the interval sane
_SEED = 20240229  # any: what counts is that the same texts give the same interval


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
    wer_interval: tuple[float, float]
    """Bootstrap 95% interval of `wer`. With one cluster nothing is known of the spread, and both ends are `wer`."""
    cer_interval: tuple[float, float]
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
        wer=float(_rate(counts.word_errors.sum(), counts.reference_words.sum())),
        cer=float(_rate(counts.character_errors.sum(), counts.reference_characters.sum())),
        substitutions=int(counts.substitutions.sum()),
        deletions=int(counts.deletions.sum()),
        insertions=int(counts.insertions.sum()),
        hits=int(counts.hits.sum()),
        reference_words=int(counts.reference_words.sum()),
        wer_interval=interval(counts.word_errors, counts.reference_words, clusters=clusters),
        cer_interval=interval(counts.character_errors, counts.reference_characters, clusters=clusters),
        num_utterances=len(counts),
    )


def interval(
    errors: np.ndarray, lengths: np.ndarray, *, clusters: Sequence[Hashable] | None = None
) -> tuple[float, float]:
    """As `difference_interval`, of something that is never below 0."""
    low, high = difference_interval(errors, lengths, clusters=clusters)
    return max(0.0, low), high


def difference_interval(
    errors: np.ndarray, lengths: np.ndarray, *, clusters: Sequence[Hashable] | None = None
) -> tuple[float, float]:
    """Bootstrap 95% interval of sum(errors) / sum(lengths), by resampling whole clusters.

    Each replicate's distance from the rate is taken in units of that replicate's own standard error (the bootstrap-t).
    The usual percentiles of the replicates are too narrow for few clusters: with eight they contain the truth in 86% of
    test sets, and with five in 81%; these in 94% and 93%. From a hundred clusters on the two are the same.

    Bisani and Ney, "Bootstrap estimates for confidence intervals in ASR performance evaluation", 2004; Efron and
    Tibshirani, "An introduction to the bootstrap", 1993, chapter 12.5.
    """
    errors, lengths = _sum_by_cluster(errors, clusters), _sum_by_cluster(lengths, clusters)  # (U,) -> (C,)
    num_clusters = len(errors)
    rate = float(_rate(errors.sum(), lengths.sum()))
    if num_clusters == 1 or not errors.any():
        return rate, rate
    if not lengths.any():
        lengths = np.full(num_clusters, 1 / num_clusters)  # the errors themselves are the rate
    columns = np.stack([errors, lengths, errors**2, errors * lengths, lengths**2], axis=1).astype(np.float64)
    _, deviation = _rates_and_deviations(np.ones((1, num_clusters), np.int64), columns)
    if not deviation[0]:
        return rate, rate
    generator = np.random.default_rng(_SEED)
    distances = np.empty(NUM_REPLICATES)
    # A few replicates at a time: R x C counts at once would be gigabytes on a large test set.
    at_once = max(1, 500_000 // num_clusters)
    for start in range(0, NUM_REPLICATES, at_once):
        num_drawn = min(at_once, NUM_REPLICATES - start)
        drawn = _draw(num_drawn, num_clusters, generator)
        rates, deviations = _rates_and_deviations(drawn, columns)
        # A replicate that drew nearly the same cluster each time has next to no deviation; it must not weigh endlessly.
        distances[start : start + num_drawn] = (rates - rate) / np.maximum(deviations, deviation * _LEAST_DEVIATION)
    low, high = np.quantile(distances, (0.025, 0.975))
    low, high = rate - float(high) * float(deviation[0]), rate - float(low) * float(deviation[0])
    return min(rate, low), max(rate, high)


def _draw(num_replicates: int, num_clusters: int, generator: np.random.Generator) -> np.ndarray:
    """How often each replicate drew each cluster, (R, C): as many draws as there are clusters."""
    drawn = generator.integers(0, num_clusters, (num_replicates, num_clusters), np.int64)
    drawn += np.arange(num_replicates)[:, np.newaxis] * num_clusters  # numbers in one range, to be counted at once
    counts = np.bincount(drawn.reshape(-1), minlength=drawn.size)
    return counts.reshape(num_replicates, num_clusters)


def _rates_and_deviations(drawn: np.ndarray, columns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The rate of each replicate and its standard error, (R,) each.

    `drawn` (R, C) says how often each cluster was drawn; `columns` (C, 5) are errors, lengths and their products. The
    standard error is that of a ratio, from the clusters' residuals errors - rate x lengths.
    """
    errors, lengths, errors_squared, products, lengths_squared = (drawn @ columns).T
    rates = _rate(errors, lengths)
    residuals_squared = np.maximum(errors_squared - 2 * rates * products + rates**2 * lengths_squared, 0)
    num_clusters = len(columns)
    return rates, _rate(np.sqrt(residuals_squared * num_clusters / (num_clusters - 1)), lengths)


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


def _rate(errors: Any, lengths: Any) -> Any:
    """Errors per reference word; without reference words, the errors themselves."""
    return errors / np.maximum(lengths, 1)


def _sum_by_cluster(values: np.ndarray, clusters: Sequence[Hashable] | None) -> np.ndarray:
    """(U,) -> (C,), in order of first appearance, so that names do not change the result."""
    if clusters is None:
        return values
    numbers: dict[Hashable, int] = {}
    assigned = [numbers.setdefault(cluster, len(numbers)) for cluster in clusters]
    sums = np.zeros(len(numbers), np.int64)
    np.add.at(sums, assigned, values)
    return sums
