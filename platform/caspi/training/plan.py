"""Which utterances make up which step, and who computes them. A pure function of the length index, without a clock.

The order depends on (seed, epoch) alone: steps are composed first, and only then dealt to ranks, so a run may go on
with another number of workers and still see each utterance of the epoch exactly once. An epoch is made of windows of
shards, each composed when its first step is asked for: its memory does not grow with the corpus, and a rank reads few
shards at a time. What a step holds is written as items, see `caspi.training.items`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np

from caspi.errors import RecipeError
from caspi.recipe.augmentation import Joining
from caspi.recipe.sections import Collation, Mixture, Training
from caspi.training.dealing import cut, deal, deal_packed
from caspi.training.draws import draw
from caspi.training.items import count_of, is_silence, position_of, silence_number
from caspi.training.joining import join
from caspi.training.lengths import LengthIndex, audio_tokens
from caspi.training.margin import Margin
from caspi.training.mixing import EpochMixture
from caspi.training.silence import silence_s

# A window holds at least so many steps: enough utterances to choose from for steps that are alike, and steps of nearly
# the size that was asked for, since a window is divided evenly.
_MIN_STEPS_PER_WINDOW = 16

# Each step has utterances of all lengths, in so many groups of one length each: more groups resemble the corpus more
# closely, fewer make micro-batches with less padding.
_GROUPS_PER_STEP = 8


@dataclass(frozen=True, eq=False)
class EpochPlan:
    """The steps of one epoch."""

    index: LengthIndex
    step_audio_s: float
    seed: int
    epoch: int
    margin: Margin
    mixture: EpochMixture
    joining: Joining
    windows: tuple[np.ndarray, ...]  # the shards of each, in the order of the epoch
    first_steps: np.ndarray  # (num_windows + 1,) where each window's steps begin, and where the last one's end

    @property
    def num_steps(self) -> int:
        return int(self.first_steps[-1])

    @property
    def max_open_shards(self) -> int:
        """The most shards that one step is read from."""
        return max(map(len, self.windows), default=0)

    def utterances(self, step: int) -> np.ndarray:
        """All items of a step, the same for every world size: (num_items,) int64."""
        window, here = self._place(step)
        return window.items[here]

    def micro_batches(
        self,
        step: int,
        *,
        rank: int,
        world_size: int,
        max_micro_batch_s: float,
        max_micro_batch_tokens: int | None = None,
        collation: Collation = "bucketed",
    ) -> tuple[np.ndarray, ...]:
        """What `rank` computes of a step: groups of items that stay within the bounds, padding and margin included.

        Ranks get about the same number of tokens, padding included. Which items a rank gets depends on the step,
        `world_size` and `collation` alone, so ranks may differ in their bounds. A rank may get nothing when a step has
        fewer items than there are ranks; an item that exceeds the bounds by itself is a group by itself.
        """
        window, here = self._place(step)
        items, longest_s, most_tokens = window.items[here], window.longest_s[here], window.most_tokens[here]
        return tuple(
            items[places]
            for run in self._dealt(step, world_size, collation)[rank]
            for places in cut(
                run,
                longest_s,
                most_tokens,
                max_micro_batch_s=max_micro_batch_s,
                max_micro_batch_tokens=max_micro_batch_tokens,
                collation=collation,
            )
        )

    def window_of(self, step: int) -> int:
        """The number of the window that a step lies in."""
        if not 0 <= step < self.num_steps:
            raise IndexError(f"step {step} of an epoch of {self.num_steps}")
        return int(np.searchsorted(self.first_steps, step, side="right")) - 1

    def _place(self, step: int) -> tuple["_Window", slice]:
        """The window of a step, and where in it the step lies."""
        number = self.window_of(step)
        window = self._window(number)
        inside = step - int(self.first_steps[number])
        return window, slice(window.starts[inside], window.starts[inside + 1])

    # A step is asked for by one rank after the other, and steps in their order: a few results are enough to keep.

    @cached_property
    def _window(self) -> Callable[[int], "_Window"]:
        return lru_cache(maxsize=2)(self._compose)

    @cached_property
    def _dealt(self) -> Callable[[int, int, Collation], list[list[np.ndarray]]]:
        return lru_cache(maxsize=2)(self._deal)

    def _deal(self, step: int, world_size: int, collation: Collation) -> list[list[np.ndarray]]:
        window, here = self._place(step)
        if collation == "packed":
            return deal_packed(window.num_tokens[here], world_size)
        return deal(window.num_tokens[here], window.longest_s[here], world_size)

    def _compose(self, number: int) -> "_Window":
        random = draw(self.seed, self.epoch, "window", number)
        num_steps = int(self.first_steps[number + 1] - self.first_steps[number])
        items = random.permutation(self._items(number, at_least=num_steps))
        durations_s, num_tokens = self.lengths(items)
        step_of = compose(durations_s, num_steps, self.step_audio_s / _GROUPS_PER_STEP, random)
        order = np.argsort(step_of, kind="stable")
        items, durations_s, num_tokens = items[order], durations_s[order], num_tokens[order]
        return _Window(
            items=items,
            starts=np.searchsorted(step_of[order], np.arange(num_steps + 1)),
            num_tokens=num_tokens,
            longest_s=self.margin.seconds(durations_s),
            most_tokens=self.margin.tokens(num_tokens, durations_s),
        )

    def _items(self, number: int, *, at_least: int) -> np.ndarray:
        """The items of a window; neighbours are joined unless too few were left then for its steps."""
        shards = [int(shard) for shard in np.sort(self.windows[number])]
        items = [self.mixture.items(shard) for shard in shards]
        if self.joining.share:
            joined = np.concatenate(
                [
                    join(each, self.index, self.joining, draw(self.seed, self.epoch, "joining", shard))
                    for shard, each in zip(shards, items, strict=True)
                ]
            )
            if len(joined) >= at_least:
                return joined
        return np.concatenate(items)

    def lengths(self, items: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Seconds and tokens of each item, without margin."""
        silent = is_silence(items)
        heard = items[~silent]
        durations_s, num_tokens = np.empty(len(items)), np.empty(len(items), np.int64)
        durations_s[~silent], num_tokens[~silent] = self.index.lengths(position_of(heard), count_of(heard))
        durations_s[silent] = silence_s(silence_number(items[silent]), seed=self.seed, epoch=self.epoch)
        num_tokens[silent] = audio_tokens(durations_s[silent]) + self.index.num_bare_tokens
        return durations_s, num_tokens


@dataclass(frozen=True, eq=False, slots=True)
class _Window:
    """The steps of some shards, one after the other."""

    items: np.ndarray  # (num_items,) int64
    starts: np.ndarray  # (num_steps + 1,)
    num_tokens: np.ndarray  # (num_items,)
    longest_s: np.ndarray  # (num_items,) seconds, margin included
    most_tokens: np.ndarray  # (num_items,) margin included


def plan_epoch(
    index: LengthIndex,
    *,
    step_audio_s: float,
    seed: int,
    epoch: int,
    shards_per_window: int = 8,
    mixture: Mixture | None = None,
    joining: Joining | None = None,
    margin: Margin | None = None,
) -> EpochPlan:
    """Plan an epoch: every utterance as often as the mixture says, about `step_audio_s` of audio in each step.

    It reads the totals of shards only; lengths of utterances are read window by window as steps are asked for.

    Args:
        step_audio_s: audio of one optimizer step over all ranks; a step holds at least one item.
        shards_per_window: items are mixed among at least so many shards, which bounds what a reader keeps at hand.
        mixture: default: every utterance once, and nothing else.
        joining: of neighbours in a shard. Default: none are joined.
        margin: how much longer than in the index an item may be when it is computed. Default: not at all.

    Raises:
        RecipeError: the mixture names a source that is not there, or leaves no utterance.
    """
    mixed = EpochMixture(index, mixture or Mixture(), seed=seed, epoch=epoch)
    windows = _windows(mixed, step_audio_s, shards_per_window, draw(seed, epoch, "order"))
    num_steps = [
        int(np.clip(round(mixed.audio_s[window].sum() / step_audio_s), 1, mixed.num_items[window].sum()))
        for window in windows
    ]
    first_steps = np.cumsum([0, *num_steps])
    return EpochPlan(
        index, step_audio_s, seed, epoch, margin or Margin(), mixed, joining or Joining(), windows, first_steps
    )


def plan_run(index: LengthIndex, training: Training) -> list[EpochPlan]:
    """The plan of every epoch of a run. The learning rate needs to know the number of all steps.

    Raises:
        RecipeError: the mixture or the joining asks for what the corpus does not have.
    """
    if training.joining.share and not index.has_neighbours():
        raise RecipeError(
            f"training.joining.share={training.joining.share}: no two utterances of the training split follow each "
            "other in one recording and shard; prepare the corpus with data.shards.by=recording, or join nothing"
        )
    return [
        plan_epoch(
            index,
            step_audio_s=training.batches.step_audio_s,
            seed=training.seed,
            epoch=epoch,
            mixture=training.mixture,
            joining=training.joining,
            margin=Margin.of(training),
        )
        for epoch in range(training.epochs)
    ]


def _windows(
    mixed: EpochMixture, step_audio_s: float, shards_per_window: int, random: np.random.Generator
) -> tuple[np.ndarray, ...]:
    """Shards in random order, in windows of equal numbers, none smaller than it must be."""
    heard = np.flatnonzero(mixed.num_items)
    if not len(heard):
        return ()
    enough = _MIN_STEPS_PER_WINDOW * step_audio_s / mixed.audio_s[heard].mean()
    size = max(shards_per_window, int(np.ceil(enough)))
    return tuple(np.array_split(random.permutation(heard), max(1, len(heard) // size)))


def compose(durations_s: np.ndarray, num_steps: int, group_s: float, random: np.random.Generator) -> np.ndarray:
    """Distribute items over steps of equal audio that all have short and long ones: the step of each item.

    Items are walked from the longest to the shortest. Neighbours make groups of about `group_s`, and of as many groups
    as there are steps each step gets one, the longest group going to the step that has least so far.

    Args:
        durations_s: at least `num_steps` of them. Equal ones stay in their order, which should be random.
    """
    order = np.argsort(-durations_s, kind="stable")
    step_of = np.empty(len(order), np.int64)
    totals_s = np.zeros(num_steps)
    start = 0
    while start < len(order):
        left = len(order) - start
        size = max(1, min(round(group_s / max(durations_s[order[start]], 1e-3)), left // num_steps))
        layer = order[start : start + size * num_steps]
        groups_s = np.add.reduceat(durations_s[layer], np.arange(0, len(layer), size))
        # Steps with equal totals, as all have at first, take turns at random.
        shortest_first = np.lexsort((random.random(num_steps), totals_s))[: len(groups_s)]
        steps = np.empty(len(groups_s), np.int64)
        steps[np.argsort(-groups_s, kind="stable")] = shortest_first
        totals_s[steps] += groups_s
        step_of[layer] = np.repeat(steps, size)
        start += len(layer)
    return step_of
