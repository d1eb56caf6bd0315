"""Whether a difference may be chance: many differences at once, from what each recording adds to them.

Legend: `C` recordings, `R` draws, `K` differences, for instance every pair of systems in every slice.
"""

from collections.abc import Callable, Sequence

import numpy as np

# Enough for a slice to be told apart from chance when a hundred of them are looked at.
_NUM_DRAWS = 10_000
_SEED = 20240229  # any: what counts is that the same texts give the same figures
# Of a draw, a value per recording; so many of them at once are 64 MB.
_MAX_VALUES = 8_000_000


def probability_lower(sums: np.ndarray) -> np.ndarray | None:
    """(C, ...) -> (...): the share of bootstrap samples of recordings in which the sum is below 0; ties count half.

    None with a single recording, of whose like nothing is known.
    """
    num_recordings = len(sums)
    if num_recordings < 2:
        return None

    def counts(generator: np.random.Generator, num_draws: int) -> np.ndarray:
        """How often each recording is drawn, (num_draws, C)."""
        drawn = generator.integers(0, num_recordings, (num_draws, num_recordings))
        drawn += num_recordings * np.arange(num_draws)[:, None]
        return np.bincount(drawn.ravel(), minlength=drawn.size).reshape(drawn.shape)

    lower = _total_over_draws(sums, counts, lambda drawn: (drawn < 0) + 0.5 * (drawn == 0))
    return lower / _NUM_DRAWS


def p_values(sums: np.ndarray) -> np.ndarray:
    """(C, ...) -> (...): how likely a difference as large as this, either way, is if the two systems are as good.

    Then, in every recording, it is by chance which of the two did which: a randomization test, valid with few
    recordings too (Noreen, "Computer-intensive methods for testing hypotheses", 1989).
    """
    size = np.abs(sums.sum(0))

    def signs(generator: np.random.Generator, num_draws: int) -> np.ndarray:
        return generator.integers(0, 2, (num_draws, len(sums)), dtype=np.int8) * 2 - 1

    as_large = _total_over_draws(sums, signs, lambda drawn: np.abs(drawn) >= size)
    return (as_large + 1) / (_NUM_DRAWS + 1)


def _total_over_draws(
    sums: np.ndarray,
    draw: Callable[[np.random.Generator, int], np.ndarray],
    count: Callable[[np.ndarray], np.ndarray],
) -> np.ndarray:
    """Weigh the recordings by draws (R, C), and add up over all draws what `count` makes of their sums (R, ...)."""
    num_recordings = len(sums)
    flat = sums.reshape(num_recordings, -1)  # (C, K)
    total = np.zeros(sums.shape[1:])
    generator = np.random.default_rng(_SEED)
    at_once = max(1, min(_MAX_VALUES // max(flat.shape), _NUM_DRAWS))
    for start in range(0, _NUM_DRAWS, at_once):
        num_draws = min(at_once, _NUM_DRAWS - start)
        # Whole numbers far below 2^53: exact, so that ties are ties.
        drawn = draw(generator, num_draws).astype(np.float64) @ flat  # (R, K)
        total += count(drawn.reshape(num_draws, *total.shape)).sum(0)
    return total


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values as they count among so many, in the same order.

    Of twenty slices one differs at 5% by chance. Holm, "A simple sequentially rejective multiple test procedure", 1979.
    """
    corrected, highest = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=lambda place: p_values[place])):
        highest = max(highest, min(1.0, p_values[place] * (len(p_values) - rank)))
        corrected[place] = highest
    return corrected
