"""How sure a rate is: 95% intervals over clusters, of which whole ones are resampled. Plain functions of counts.

Legend: `U` utterances, `C` clusters, `R` bootstrap replicates.
"""

from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
from scipy.special import stdtrit

Interval = tuple[float, float]

NUM_REPLICATES = 1000
_LEAST_DEVIATION = 0.25  # of a replicate, as a share of the whole's: with five clusters it keeps the interval sane
_SEED = 20240229  # any: what counts is that the same texts give the same interval


def interval(errors: np.ndarray, lengths: np.ndarray, *, clusters: Sequence[Hashable] | None = None) -> Interval | None:
    """As `difference_interval`, of something that is never below 0.

    Without any error it ends where no error would be seen in 1 of 20 test sets, if recordings were right or wrong as a
    whole: at about 3 / C (the rule of three).
    """
    if errors.any():
        found = difference_interval(errors, lengths, clusters=clusters)
        return None if found is None else (max(0.0, found[0]), found[1])
    lengths = _sum_by_cluster(lengths, clusters)
    if len(lengths) == 1 or not lengths.any():
        return None
    return 0.0, 1 - 0.05 ** (1 / _effective_number(lengths))


def difference_interval(
    errors: np.ndarray, lengths: np.ndarray, *, clusters: Sequence[Hashable] | None = None
) -> Interval | None:
    """95% interval of sum(errors) / sum(lengths), from how clusters differ in it.

    None where nothing is known of the spread: with one cluster, with several of exactly the same rate, or where one has
    all the length. Where no cluster has any error both ends are 0: that is a system compared with itself.

    It is what two of them cover. In the bootstrap-t each replicate's distance from the rate is taken in units of that
    replicate's own standard error: the usual percentiles of the replicates are too narrow for few clusters. A t
    interval about the jackknife's standard error, with the degrees of freedom of as many clusters as would weigh the
    same if they were equally long, sees what no replicate shows: that there are two clusters only, or that one of them
    outweighs the others.

    Bisani and Ney, "Bootstrap estimates for confidence intervals in ASR performance evaluation", 2004; Efron and
    Tibshirani, "An introduction to the bootstrap", 1993, chapters 11 and 12.5.
    """
    errors, lengths = _sum_by_cluster(errors, clusters), _sum_by_cluster(lengths, clusters)  # (U,) -> (C,)
    if len(errors) == 1:
        return None
    if not errors.any():
        return 0.0, 0.0
    weights = lengths if lengths.any() else np.ones_like(lengths)
    # A cluster that has all the length leaves no rate without it.
    if (errors * weights.sum() == weights * errors.sum()).all() or weights.max() == weights.sum():
        return None
    if not lengths.any():
        lengths = weights / len(weights)  # the errors themselves are the rate
    bootstrapped, jackknifed = _bootstrap_t(errors, lengths), _jackknife_t(errors, lengths)
    return min(bootstrapped[0], jackknifed[0]), max(bootstrapped[1], jackknifed[1])


def ends(found: Interval | None) -> list[float] | None:
    """An interval as JSON has it."""
    return None if found is None else list(found)


def describe(found: Sequence[float] | None, digits: int = 1) -> str:
    """An interval of a rate in words: `95% interval 1.2% to 3.4%`."""
    if found is None:
        return "how sure is not known"
    low, high = (f"{end:.{digits}%}" for end in found)
    return f"95% interval {low} to {high}"


def rate(errors: Any, lengths: Any) -> Any:
    """Errors per reference word; without reference words, the errors themselves."""
    return errors / np.maximum(lengths, 1)


def _bootstrap_t(errors: np.ndarray, lengths: np.ndarray) -> Interval:
    num_clusters = len(errors)
    found = float(rate(errors.sum(), lengths.sum()))
    columns = np.stack([errors, lengths, errors**2, errors * lengths, lengths**2], axis=1).astype(np.float64)
    _, deviation = _rates_and_deviations(np.ones((1, num_clusters), np.int64), columns)
    generator = np.random.default_rng(_SEED)
    distances = np.empty(NUM_REPLICATES)
    # A few replicates at a time: R x C counts at once would be gigabytes on a large test set.
    at_once = max(1, 500_000 // num_clusters)
    for start in range(0, NUM_REPLICATES, at_once):
        num_drawn = min(at_once, NUM_REPLICATES - start)
        drawn = _draw(num_drawn, num_clusters, generator)
        rates, deviations = _rates_and_deviations(drawn, columns)
        # A replicate that drew nearly the same cluster each time has next to no deviation; it must not weigh endlessly.
        distances[start : start + num_drawn] = (rates - found) / np.maximum(deviations, deviation * _LEAST_DEVIATION)
    low, high = np.quantile(distances, (0.025, 0.975))
    low, high = found - float(high) * float(deviation[0]), found - float(low) * float(deviation[0])
    return min(found, low), max(found, high)


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
    rates = rate(errors, lengths)
    residuals_squared = np.maximum(errors_squared - 2 * rates * products + rates**2 * lengths_squared, 0)
    num_clusters = len(columns)
    return rates, rate(np.sqrt(residuals_squared * num_clusters / (num_clusters - 1)), lengths)


def _jackknife_t(errors: np.ndarray, lengths: np.ndarray) -> Interval:
    shares = lengths / lengths.sum()
    found = errors.sum() / lengths.sum()
    # What the rate would be without each cluster, less what it is: its residual over the length that is left.
    residuals = (errors - found * lengths) / (1 - shares) / lengths.sum()
    quantile = stdtrit(max(1.0, _effective_number(lengths) - 1), 0.975)
    deviation = float(quantile * np.sqrt((residuals**2).sum()))
    return float(found) - deviation, float(found) + deviation


def _effective_number(lengths: np.ndarray) -> float:
    """How many clusters of equal length weigh as these do: 3 for three equal ones, near 1 where one outweighs all."""
    return float(lengths.sum() ** 2 / (lengths.astype(np.float64) ** 2).sum())


def _sum_by_cluster(values: np.ndarray, clusters: Sequence[Hashable] | None) -> np.ndarray:
    """(U,) -> (C,), in order of first appearance, so that names do not change the result."""
    if clusters is None:
        return values
    numbers: dict[Hashable, int] = {}
    assigned = [numbers.setdefault(cluster, len(numbers)) for cluster in clusters]
    sums = np.zeros(len(numbers), np.int64)
    np.add.at(sums, assigned, values)
    return sums
