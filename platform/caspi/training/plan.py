"""Which utterances make up which step, and who computes them. A pure function, with no I/O and no clock.

The order depends on (seed, epoch) alone: steps are composed first, and only then dealt to ranks, so a run may go on
with another number of workers and still see each utterance of the epoch exactly once.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

# Utterances are sorted by length inside windows of so many steps: long enough to make batches of similar lengths,
# short enough to leave the order random.
STEPS_PER_WINDOW = 32


@dataclass(frozen=True, slots=True)
class EpochPlan:
    """The steps of one epoch. Utterances are positions in the length index."""

    durations_s: np.ndarray  # (num_utterances,) of the whole index
    steps: tuple[np.ndarray, ...]  # each (utterances of the step,), longest first

    def micro_batches(
        self, step: int, *, rank: int, world_size: int, max_micro_batch_s: float
    ) -> tuple[np.ndarray, ...]:
        """What `rank` computes of a step: groups of utterances of at most `max_micro_batch_s`, padding included.

        Ranks get about the same audio; a rank may get nothing when a step has fewer utterances than there are ranks.
        """
        mine = deal(self.steps[step], self.durations_s, world_size)[rank]
        return tuple(cut(mine, self.durations_s, max_micro_batch_s))


def plan_epoch(
    durations_s: np.ndarray,
    shards: np.ndarray,
    *,
    step_audio_s: float,
    seed: int,
    epoch: int,
    shards_per_window: int = 8,
) -> EpochPlan:
    """Compose the steps of an epoch: every utterance once, about `step_audio_s` of audio in each.

    Args:
        durations_s: seconds of each utterance, (num_utterances,).
        shards: number of the shard that holds each utterance, (num_utterances,).
        step_audio_s: audio of one optimizer step over all ranks; a step holds at least one utterance.
        shards_per_window: utterances are mixed among so many shards, which bounds what a reader must keep at hand.
    """
    random = np.random.default_rng([seed, epoch])
    order = _shuffle(shards, random, shards_per_window)
    steps: list[np.ndarray] = []
    window_s = STEPS_PER_WINDOW * step_audio_s
    for window in _fill(order, durations_s, window_s):
        # The sort is stable and its ties random, since the window is.
        longest_first = window[np.argsort(-durations_s[window], kind="stable")]
        inside = list(_fill(longest_first, durations_s, step_audio_s))
        steps += [inside[i] for i in random.permutation(len(inside))]
    return EpochPlan(durations_s, tuple(steps))


def deal(utterances: np.ndarray, durations_s: np.ndarray, world_size: int) -> list[np.ndarray]:
    """Share a step among ranks: the longest utterance left goes to the rank with the least audio (LPT)."""
    load = np.zeros(world_size)
    hands: list[list[int]] = [[] for _ in range(world_size)]
    for utterance in utterances[np.argsort(-durations_s[utterances], kind="stable")]:
        rank = int(np.argmin(load))
        load[rank] += durations_s[utterance]
        hands[rank].append(int(utterance))
    return [np.array(hand, dtype=np.int64) for hand in hands]


def cut(utterances: np.ndarray, durations_s: np.ndarray, max_micro_batch_s: float) -> list[np.ndarray]:
    """Cut one rank's share, longest first, into micro-batches bounded by their padded audio."""
    batches: list[list[int]] = []
    for utterance in utterances:
        longest = durations_s[batches[-1][0]] if batches else np.inf
        if batches and longest * (len(batches[-1]) + 1) <= max_micro_batch_s:
            batches[-1].append(int(utterance))
        else:
            batches.append([int(utterance)])
    return [np.array(batch, dtype=np.int64) for batch in batches]


def _shuffle(shards: np.ndarray, random: np.random.Generator, shards_per_window: int) -> np.ndarray:
    """All utterances in random order, window of shards by window of shards."""
    if not len(shards):
        return np.zeros(0, np.int64)
    # Grouped once: looking each window up among all utterances would take quadratic time.
    by_shard = np.argsort(shards, kind="stable")
    names, starts = np.unique(shards[by_shard], return_index=True)
    members = np.split(by_shard, starts[1:])
    drawn = random.permutation(len(names))
    windows: Sequence[np.ndarray] = np.array_split(drawn, -(-len(drawn) // shards_per_window))
    together = (np.concatenate([members[shard] for shard in window]) for window in windows)
    return np.concatenate([random.permutation(np.sort(window)) for window in together])


def _fill(order: np.ndarray, durations_s: np.ndarray, capacity_s: float) -> list[np.ndarray]:
    """Cut `order` so that each piece starts where the running sum passes a multiple of the capacity."""
    ends = np.cumsum(durations_s[order])
    piece = ((ends - durations_s[order] / 2) // capacity_s).astype(np.int64)
    return np.split(order, np.flatnonzero(np.diff(piece)) + 1) if len(order) else []
