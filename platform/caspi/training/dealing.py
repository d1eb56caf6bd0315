"""One step to ranks, and a rank's share to micro-batches.

What a bucketed micro-batch costs is its utterances times the longest of them, so a share is made of runs of similar
length. A packed one costs its tokens, so any utterances go together. A share does not depend on the bounds of
micro-batches: a rank that ran out of memory cuts the same share more finely, and the others need not know.
"""

import heapq

import numpy as np

from caspi.recipe.sections import Collation

# What a forward and backward pass costs beside its tokens, in tokens: the launches of some thousand kernels, about the
# time that an A100 takes for two seconds of speech on the 1.7B model.
_PASS_COST = 40

# A run ends where an utterance has less than this share of the longest one's tokens.
_SIMILAR = 0.8

# Runs of one share: some long, some short utterances for each rank. Fewer where runs would cost more to start than to
# compute.
_MAX_LAYERS = 4
_MIN_RUN_COST = 10 * _PASS_COST

_CAPACITY_GROWTH = 1.004


def deal_packed(costs: np.ndarray, world_size: int) -> list[list[np.ndarray]]:
    """Share the utterances of a step so that each rank has the same cost: the costliest first, to who has least.

    A rank may get nothing when there are fewer utterances than ranks.

    Args:
        costs: tokens of each utterance, (num_utterances,).

    Returns:
        For each rank one run, or none: places in `costs`, the costliest first.
    """
    hands: list[list[int]] = [[] for _ in range(world_size)]
    levels = [(0, rank) for rank in range(world_size)]
    for place in np.argsort(-costs, kind="stable").tolist():
        level, rank = levels[0]
        hands[rank].append(place)
        heapq.heapreplace(levels, (level + int(costs[place]), rank))
    return [[np.array(hand)] if hand else [] for hand in hands]


def deal(costs: np.ndarray, durations_s: np.ndarray, world_size: int) -> list[list[np.ndarray]]:
    """Share the utterances of a step so that each rank has the same cost when they are bucketed, padding included.

    A rank may get nothing when there are fewer utterances than ranks.

    Args:
        costs: tokens of each utterance, (num_utterances,).
        durations_s: seconds of each. Ranks come within a few percent of each other in these too.

    Returns:
        For each rank its runs: places in `costs`, the costliest first.
    """
    order = np.argsort(-costs, kind="stable")
    # As MULTIFIT does (doi:10.1137/0207001): the least capacity with which first-fit in falling order places all. The
    # steps of the loop are a few dozen runs, so it is Python over lists.
    sorted_costs = costs[order].tolist()
    sorted_s = durations_s[order].tolist()
    share = sum(sorted_costs) / world_size
    num_layers = int(min(max(share // _MIN_RUN_COST, 1), _MAX_LAYERS))
    least = max(sorted_costs[0] + _PASS_COST, share + num_layers * _PASS_COST)
    while (runs := _fit(sorted_costs, sorted_s, world_size, least, num_layers)) is None:
        least *= _CAPACITY_GROWTH
    hands: list[list[np.ndarray]] = [[] for _ in range(world_size)]
    for rank, start, stop in runs:
        hands[rank].append(order[start:stop])
    return hands


def _fit(
    costs: list[float], durations_s: list[float], world_size: int, capacity: float, num_layers: int
) -> list[tuple[int, int, int]] | None:
    """Runs (rank, start, stop) of falling `costs`, or None if they do not all fit into the capacity of each rank.

    Ranks are filled in layers, so that each gets long and short utterances. Within a layer the rank with the fewest
    seconds for its tokens comes first and gets the longest utterances, whose share of audio is largest.
    """
    levels, seconds = [0.0] * world_size, [0.0] * world_size
    runs: list[tuple[int, int, int]] = []
    start, layer = 0, 0
    while start < len(costs):
        layer += 1
        target = capacity * min(1.0, layer / num_layers)
        is_stuck = target == capacity
        for rank in sorted(range(world_size), key=lambda rank: seconds[rank] / (levels[rank] or 1)):
            if start == len(costs):
                break
            # An empty rank takes one utterance even if it is more than the layer's share.
            room = target - levels[rank] if levels[rank] else capacity
            longest = costs[start]
            if longest + _PASS_COST > room:
                continue
            most = max(1, int((target - levels[rank] - _PASS_COST) // longest))
            stop = start + 1
            while stop < min(start + most, len(costs)) and costs[stop] >= _SIMILAR * longest:
                stop += 1
            runs.append((rank, start, stop))
            levels[rank] += longest * (stop - start) + _PASS_COST
            seconds[rank] += max(durations_s[start:stop]) * (stop - start)
            start, is_stuck = stop, False
        if is_stuck:
            return None
    return runs


def cut(
    run: np.ndarray,
    durations_s: np.ndarray,
    num_tokens: np.ndarray,
    *,
    max_micro_batch_s: float,
    max_micro_batch_tokens: int | None = None,
    collation: Collation = "bucketed",
) -> list[np.ndarray]:
    """Cut a run into micro-batches that stay within their bounds, padding included. One utterance may exceed them.

    Args:
        run: places in `durations_s` and `num_tokens`.
    """
    max_tokens = np.inf if max_micro_batch_tokens is None else max_micro_batch_tokens
    is_packed = collation == "packed"
    starts, held_s, held_tokens = [0], 0.0, 0  # of all that are packed, or of the longest
    for place, (seconds, tokens) in enumerate(zip(durations_s[run].tolist(), num_tokens[run].tolist(), strict=True)):
        size = place + 1 - starts[-1]
        if is_packed:
            held_s, held_tokens, factor = held_s + seconds, held_tokens + tokens, 1
        else:
            held_s, held_tokens, factor = max(held_s, seconds), max(held_tokens, tokens), size
        if size > 1 and (held_s * factor > max_micro_batch_s or held_tokens * factor > max_tokens):
            starts.append(place)
            held_s, held_tokens = seconds, tokens
    return np.split(run, starts[1:])
