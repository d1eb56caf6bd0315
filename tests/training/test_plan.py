"""The plan: every utterance once, the same steps at any world size, bounded batches, balanced ranks."""

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from caspi.errors import RecipeError
from caspi.recipe.sections import Mixture
from caspi.training.items import copy_of, is_silence, position_of, silence_number, silence_shard
from caspi.training.lengths import LengthIndex
from caspi.training.margin import Margin
from caspi.training.plan import EpochPlan, compose, plan_epoch
from caspi.training.silence import make_silence


def speech_like(num_utterances: int, *, shard_size: int = 1000, num_sources: int = 1) -> LengthIndex:
    """Lengths like those of crowd-transcribe: lognormal, 5.5 s on average, and as many tokens as Hebrew has."""
    random = np.random.default_rng(0)
    durations_s = np.clip(random.lognormal(np.log(5.5) - 0.7**2 / 2, 0.7, num_utterances), 0.5, 30)
    text_tokens = 5.5 * durations_s * random.lognormal(0, 0.25, num_utterances)
    return LengthIndex.of(
        durations_s,
        np.diff([*range(0, num_utterances, shard_size), num_utterances]),
        num_tokens=(22 + 13 * durations_s + text_tokens).astype(int),
        source_codes=random.integers(0, num_sources, num_utterances),
        sources=[f"source-{number}" for number in range(num_sources)],
    )


def steps_of(plan: EpochPlan) -> list[list[int]]:
    return [plan.utterances(step).tolist() for step in range(plan.num_steps)]


def computed(plan: EpochPlan, world_size: int, **bounds) -> list[list[list[np.ndarray]]]:
    """The micro-batches of each step and rank."""
    bounds = {"max_micro_batch_s": 60.0} | bounds
    return [
        [list(plan.micro_batches(step, rank=rank, world_size=world_size, **bounds)) for rank in range(world_size)]
        for step in range(plan.num_steps)
    ]


@st.composite
def indexes(draw: st.DrawFn) -> LengthIndex:
    sizes = draw(st.lists(st.integers(1, 60), min_size=1, max_size=12))
    seconds = st.floats(0.125, 30, width=32)
    durations_s = draw(st.lists(seconds, min_size=sum(sizes), max_size=sum(sizes)))
    sources = draw(st.lists(st.integers(0, 2), min_size=sum(sizes), max_size=sum(sizes)))
    return LengthIndex.of(np.array(durations_s), sizes, source_codes=np.array(sources), sources=["a", "b", "c"])


plans = {
    "index": indexes(),
    "step_audio_s": st.floats(1, 200),
    "seed": st.integers(0, 2**31),
    "epoch": st.integers(0, 5),
    "shards_per_window": st.integers(1, 4),
}


@settings(max_examples=80, deadline=None)
@given(**plans, world_size=st.integers(1, 9), bound_s=st.floats(1, 100), tokens=st.none() | st.integers(20, 2000))
def test_every_utterance_is_computed_exactly_once(
    index, step_audio_s, seed, epoch, shards_per_window, world_size, bound_s, tokens
):
    plan = plan_epoch(index, step_audio_s=step_audio_s, seed=seed, epoch=epoch, shards_per_window=shards_per_window)
    batches = computed(plan, world_size, max_micro_batch_s=bound_s, max_micro_batch_tokens=tokens)
    seen = [item for step in batches for rank in step for batch in rank for item in batch.tolist()]
    assert sorted(seen) == list(range(len(index)))


@settings(max_examples=80, deadline=None)
@given(**plans, first=st.integers(1, 9), other=st.integers(1, 9))
def test_a_step_holds_the_same_utterances_at_every_world_size(
    index, step_audio_s, seed, epoch, shards_per_window, first, other
):
    plan = plan_epoch(index, step_audio_s=step_audio_s, seed=seed, epoch=epoch, shards_per_window=shards_per_window)
    for step, (here, there) in enumerate(zip(computed(plan, first), computed(plan, other), strict=True)):
        together = [np.concatenate([batch for rank in ranks for batch in rank]) for ranks in (here, there)]
        expected = np.sort(plan.utterances(step))
        assert len(expected)
        for items in together:
            np.testing.assert_array_equal(np.sort(items), expected)


@settings(max_examples=80, deadline=None)
@given(
    **plans,
    bound_s=st.floats(1, 100),
    tokens=st.none() | st.integers(20, 2000),
    margin=st.builds(Margin, st.sampled_from([0.0, 0.1]), st.sampled_from([0.0, 0.5]), st.sampled_from([0, 30])),
)
def test_micro_batches_stay_within_their_bounds_or_are_one_utterance(
    index, step_audio_s, seed, epoch, shards_per_window, bound_s, tokens, margin
):
    plan = plan_epoch(
        index,
        step_audio_s=step_audio_s,
        seed=seed,
        epoch=epoch,
        shards_per_window=shards_per_window,
        margin=margin,
    )
    for step in computed(plan, 2, max_micro_batch_s=bound_s, max_micro_batch_tokens=tokens):
        for batch in (batch for rank in step for batch in rank):
            durations_s = index.durations_s[batch]
            most_tokens = margin.tokens(index.num_tokens[batch], durations_s)
            if len(batch) > 1:
                assert margin.seconds(durations_s).max() * len(batch) <= bound_s
                assert tokens is None or most_tokens.max() * len(batch) <= tokens


@settings(max_examples=50, deadline=None)
@given(**plans, start=st.integers(0, 200))
def test_steps_do_not_depend_on_what_was_asked_before(index, step_audio_s, seed, epoch, shards_per_window, start):
    """A resumed run, which starts in the middle, does what the unbroken one does."""
    arguments = {"step_audio_s": step_audio_s, "seed": seed, "epoch": epoch, "shards_per_window": shards_per_window}
    unbroken = steps_of(plan_epoch(index, **arguments))
    resumed = plan_epoch(index, **arguments)
    for step in range(min(start, resumed.num_steps), resumed.num_steps):
        assert resumed.utterances(step).tolist() == unbroken[step]
    for step in reversed(range(resumed.num_steps)):
        assert resumed.utterances(step).tolist() == unbroken[step]


def test_the_order_is_a_function_of_seed_and_epoch():
    index = speech_like(500)

    def order(**arguments) -> list[list[int]]:
        return steps_of(plan_epoch(index, **({"step_audio_s": 48, "seed": 1, "epoch": 0} | arguments)))

    assert order() == order()
    assert order(seed=2) != order()
    assert order(epoch=1) != order()


def test_a_plan_knows_its_steps_without_reading_lengths():
    index = speech_like(5000)
    totals_only = LengthIndex(
        index.shards,
        index.sources,
        durations_s=np.empty(5000),
        num_tokens=np.empty(0),
        source_codes=np.empty(0),
        gaps_s=np.empty(0),
        following_tokens=np.empty(0),
        shard_utterances=index.shard_utterances,
        shard_audio_s=index.shard_audio_s,
    )
    arguments = {"step_audio_s": 100, "seed": 1, "epoch": 0}
    assert plan_epoch(totals_only, **arguments).num_steps == len(steps_of(plan_epoch(index, **arguments)))


def test_a_step_that_is_not_there_is_an_error():
    plan = plan_epoch(speech_like(10), step_audio_s=10, seed=0, epoch=0)
    with pytest.raises(IndexError, match=f"step {plan.num_steps} of an epoch of {plan.num_steps}"):
        plan.utterances(plan.num_steps)


@pytest.mark.parametrize(
    ("num_utterances", "step_audio_s", "tolerance"),
    [(50_000, 1400, 0.03), (20_000, 300, 0.06), (3_000, 24, 0.8)],  # one clip of 30 s is more than a step of 24 s
)
def test_every_step_holds_about_the_audio_asked_for(num_utterances, step_audio_s, tolerance):
    index = speech_like(num_utterances)
    plan = plan_epoch(index, step_audio_s=step_audio_s, seed=3, epoch=1)
    audio_s = np.array([index.durations_s[plan.utterances(step)].sum() for step in range(plan.num_steps)])
    assert audio_s.mean() == pytest.approx(step_audio_s, rel=0.02)
    assert abs(audio_s / step_audio_s - 1).max() < tolerance


def test_every_step_has_short_and_long_utterances():
    index = speech_like(20_000)
    plan = plan_epoch(index, step_audio_s=1400, seed=3, epoch=1)
    for step in range(plan.num_steps):
        durations_s = index.durations_s[plan.utterances(step)]
        assert durations_s.min() < 2.5 and durations_s.max() > 15


def cost_of(index: LengthIndex, batch: np.ndarray) -> np.ndarray:
    """Tokens and seconds of the rectangle, and of what is in it."""
    tokens, seconds = index.num_tokens[batch], index.durations_s[batch]
    return np.array([len(batch) * tokens.max(), len(batch) * seconds.max(), tokens.sum(), seconds.sum()])


def costs(plan: EpochPlan, world_size: int, bound_s: float) -> np.ndarray:
    """(num_steps, world_size, 4) of each rank."""
    return np.array(
        [
            [sum((cost_of(plan.index, batch) for batch in rank), np.zeros(4)) for rank in step]
            for step in computed(plan, world_size, max_micro_batch_s=bound_s)
        ]
    )


@pytest.mark.parametrize("bound_s", [30, 60, 240])
@pytest.mark.parametrize("seed", [0, 1])
def test_eight_ranks_have_the_same_work_in_every_step(bound_s, seed):
    plan = plan_epoch(speech_like(40_000), step_audio_s=1400, seed=seed, epoch=0)
    padded_tokens = costs(plan, 8, bound_s)[:, :, 0]
    imbalance = padded_tokens.max(axis=1) / padded_tokens.mean(axis=1) - 1
    assert imbalance.max() <= 0.03


@pytest.mark.parametrize("bound_s", [60, 240])
def test_eight_ranks_have_the_same_audio_where_nothing_but_audio_counts(bound_s):
    known = speech_like(40_000)
    index = LengthIndex.of(known.durations_s, known.shard_utterances.sum(1))
    padded_s = costs(plan_epoch(index, step_audio_s=1400, seed=0, epoch=0), 8, bound_s)[:, :, 1]
    assert (padded_s.max(axis=1) / padded_s.mean(axis=1) - 1).max() <= 0.03


@pytest.mark.parametrize("bound_s", [60, 240])
@pytest.mark.parametrize("world_size", [1, 2, 8, 64])
def test_at_most_a_tenth_of_the_work_is_padding(world_size, bound_s):
    plan = plan_epoch(speech_like(20_000), step_audio_s=1400, seed=0, epoch=0)
    padded_tokens, padded_s, tokens, seconds = costs(plan, world_size, bound_s).sum(axis=(0, 1))
    assert 1 - tokens / padded_tokens <= 0.1
    assert 1 - seconds / padded_s <= 0.1


def test_ranks_with_other_bounds_keep_their_shares():
    """One rank ran out of memory and halved its bound: the others need not know."""
    plan = plan_epoch(speech_like(3000), step_audio_s=200, seed=0, epoch=0)
    for wide, narrow in zip(computed(plan, 2), computed(plan, 2, max_micro_batch_s=30.0), strict=True):
        for rank in range(2):
            assert Counter(np.concatenate(wide[rank]).tolist()) == Counter(np.concatenate(narrow[rank]).tolist())


def test_a_rank_may_get_nothing():
    plan = plan_epoch(LengthIndex.of(np.ones(2), [2]), step_audio_s=2, seed=0, epoch=0)
    (ranks,) = computed(plan, 3)
    assert sorted(map(len, ranks)) == [0, 1, 1]


# --- reading --------------------------------------------------------------------------------------------------------


def test_steps_of_a_window_are_read_from_few_shards_and_mix_them_all():
    index = speech_like(64_000)
    plan = plan_epoch(index, step_audio_s=1400, seed=0, epoch=0)
    shards = [set(np.searchsorted(index.starts, plan.utterances(step), side="right")) for step in range(plan.num_steps)]
    assert all(len(shard) <= 8 for shard in shards)
    changes = sum(before != after for before, after in pairwise(shards))
    assert changes == 64 / 8 - 1, "a window's shards are done with before the next one's are opened"
    assert plan.max_open_shards == 8


def test_small_shards_make_larger_windows():
    """Eight shards of a minute would be less than a step."""
    index = speech_like(2200, shard_size=11)
    plan = plan_epoch(index, step_audio_s=300, seed=0, epoch=0)
    audio_s = [index.durations_s[plan.utterances(step)].sum() for step in range(plan.num_steps)]
    assert plan.max_open_shards >= 80
    assert min(audio_s) > 270 and max(audio_s) < 330


# --- mixture --------------------------------------------------------------------------------------------------------


@settings(max_examples=80, deadline=None)
@given(
    **plans,
    weights=st.fixed_dictionaries(
        {}, optional={name: st.floats(0, 3, allow_subnormal=False) | st.integers(0, 3) for name in "abc"}
    ),
    silence_share=st.sampled_from([0.0, 0.02, 0.3]),
)
def test_an_utterance_is_heard_as_often_as_its_weight_says(
    index, step_audio_s, seed, epoch, shards_per_window, weights, silence_share
):
    mixture = Mixture(weights=weights, silence_share=silence_share)
    try:
        plan = plan_epoch(
            index,
            step_audio_s=step_audio_s,
            seed=seed,
            epoch=epoch,
            shards_per_window=shards_per_window,
            mixture=mixture,
        )
    except RecipeError:
        expected = sum(weights.get(index.sources[code], 1) for code in index.source_codes)
        assert expected < 1
        return
    items = np.concatenate([plan.utterances(step) for step in range(plan.num_steps)])
    assert len(set(items.tolist())) == len(items)
    assert all(len(plan.utterances(step)) for step in range(plan.num_steps))
    utterances = items[~is_silence(items)]
    times = Counter(position_of(utterances).tolist())
    for position, code in enumerate(index.source_codes.tolist()):
        weight = weights.get(index.sources[code], 1)
        assert np.floor(weight) <= times[position] <= np.ceil(weight)
    copies = Counter(zip(position_of(utterances).tolist(), copy_of(utterances).tolist(), strict=True))
    assert copies == Counter((position, copy) for position, count in times.items() for copy in range(count))
    assert (len(items) - len(utterances)) == int(len(utterances) * round(silence_share * 2**20) / 2**20)


def test_half_a_weight_is_another_half_in_each_epoch():
    index = speech_like(4000)
    mixture = Mixture(weights={"source-0": 0.5})
    heard = []
    for epoch in range(2):
        plan = plan_epoch(index, step_audio_s=100, seed=0, epoch=epoch, mixture=mixture)
        heard.append({item for step in steps_of(plan) for item in step})
    assert [len(items) for items in heard] == [2000, 2000]
    assert len(heard[0] & heard[1]) == pytest.approx(1000, abs=100)


def test_a_source_without_weight_is_left_out():
    index = speech_like(2000, num_sources=2)
    plan = plan_epoch(index, step_audio_s=100, seed=0, epoch=0, mixture=Mixture(weights={"source-1": 0}))
    heard = [item for step in steps_of(plan) for item in step]
    assert sorted(heard) == np.flatnonzero(index.source_codes == 0).tolist()


def test_a_weight_of_an_unknown_source_is_an_error_that_names_those_there_are():
    with pytest.raises(RecipeError, match=r"weights\.crowd: no such source .*source-0, source-1"):
        plan_epoch(
            speech_like(10, num_sources=2),
            step_audio_s=10,
            seed=0,
            epoch=0,
            mixture=Mixture(weights={"crowd": 2.0}),
        )


def test_weights_that_leave_nothing_are_an_error():
    with pytest.raises(RecipeError, match="leave no utterance"):
        plan_epoch(speech_like(10), step_audio_s=10, seed=0, epoch=0, mixture=Mixture(weights={"source-0": 0}))


def test_clips_without_speech_count_with_the_length_that_they_will_have():
    index = speech_like(2000, shard_size=200)
    plan = plan_epoch(index, step_audio_s=200, seed=5, epoch=2, mixture=Mixture(silence_share=0.2))
    for step in computed(plan, 2, max_micro_batch_s=30.0):
        for batch in (batch for rank in step for batch in rank):
            silent = batch[is_silence(batch)]
            seconds = [len(make_silence(silence_number(item), seed=5, epoch=2)) / 16000 for item in silent.tolist()]
            seconds += index.durations_s[batch[~is_silence(batch)]].tolist()
            assert len(batch) == 1 or max(seconds) * len(batch) <= 30


def test_clips_without_speech_go_with_the_shards_of_their_window():
    index = speech_like(32_000)
    plan = plan_epoch(index, step_audio_s=1400, seed=0, epoch=0, mixture=Mixture(silence_share=0.02))
    for step in range(plan.num_steps):
        items = plan.utterances(step)
        silent = is_silence(items)
        near = np.searchsorted(index.starts, position_of(items[~silent]), side="right") - 1
        assert set(silence_shard(items[silent]).tolist()) <= set(near.tolist())


# --- parts ----------------------------------------------------------------------------------------------------------


@given(st.lists(st.floats(0.1, 30), min_size=1, max_size=100), st.integers(1, 100), st.floats(0.1, 100))
def test_composed_steps_have_equally_many_items_but_for_one_group(durations, num_steps, group_s):
    num_steps = min(num_steps, len(durations))
    step_of = compose(np.array(durations), num_steps, group_s, np.random.default_rng(0))
    counts = np.bincount(step_of, minlength=num_steps)
    assert counts.max() - counts.min() <= 1
