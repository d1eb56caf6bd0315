"""The plan: every utterance once, the same order at any world size, bounded batches, balanced ranks."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from caspi.training.plan import cut, deal, plan_epoch


def plan(num_utterances: int, *, seed: int = 1, epoch: int = 0, step_audio_s: float = 48.0, num_shards: int = 20):
    random = np.random.default_rng(0)
    durations = np.clip(random.lognormal(1.5, 0.6, num_utterances), 0.5, 30)
    shards = np.sort(random.integers(0, num_shards, num_utterances))
    return durations, shards, plan_epoch(durations, shards, step_audio_s=step_audio_s, seed=seed, epoch=epoch)


def steps_of(planned) -> list[list[int]]:
    return [step.tolist() for step in planned.steps]


@settings(max_examples=60, deadline=None)
@given(
    durations=st.lists(st.floats(0.1, 30), min_size=1, max_size=300),
    step_audio_s=st.floats(1, 200),
    seed=st.integers(0, 2**31),
    world_size=st.integers(1, 9),
)
def test_every_utterance_is_computed_exactly_once(durations, step_audio_s, seed, world_size):
    lengths = np.array(durations)
    shards = np.arange(len(lengths)) // 7
    planned = plan_epoch(lengths, shards, step_audio_s=step_audio_s, seed=seed, epoch=3)
    seen = [
        int(utterance)
        for step in range(len(planned.steps))
        for rank in range(world_size)
        for batch in planned.micro_batches(step, rank=rank, world_size=world_size, max_micro_batch_s=30.0)
        for utterance in batch
    ]
    assert sorted(seen) == list(range(len(lengths)))


def test_the_order_is_the_same_function_of_seed_and_epoch_every_time():
    assert steps_of(plan(500)[2]) == steps_of(plan(500)[2])
    assert steps_of(plan(500, seed=2)[2]) != steps_of(plan(500)[2])
    assert steps_of(plan(500, epoch=1)[2]) != steps_of(plan(500)[2])


@pytest.mark.parametrize("world_size", [1, 2, 8])
def test_a_step_holds_the_same_utterances_at_every_world_size(world_size):
    _, _, planned = plan(400)
    for step, utterances in enumerate(planned.steps):
        dealt = [
            utterance
            for rank in range(world_size)
            for batch in planned.micro_batches(step, rank=rank, world_size=world_size, max_micro_batch_s=60)
            for utterance in batch.tolist()
        ]
        assert sorted(dealt) == sorted(utterances.tolist())


def test_steps_hold_about_the_audio_asked_for():
    durations, _, planned = plan(20_000, step_audio_s=1400)
    audio_s = [durations[step].sum() for step in planned.steps]
    assert np.median(audio_s) == pytest.approx(1400, rel=0.02)
    assert max(audio_s) < 1.1 * 1400


def test_micro_batches_stay_within_their_bound_with_padding():
    durations, _, planned = plan(3000)
    for step in range(len(planned.steps)):
        for batch in planned.micro_batches(step, rank=0, world_size=2, max_micro_batch_s=40):
            assert durations[batch].max() * len(batch) <= 40


def test_an_utterance_longer_than_the_bound_is_a_batch_of_its_own():
    durations = np.array([50.0, 1.0, 1.0])
    assert [batch.tolist() for batch in cut(np.array([0, 1, 2]), durations, 10)] == [[0], [1, 2]]


def test_eight_ranks_get_nearly_the_same_audio():
    durations, _, planned = plan(20_000, step_audio_s=1400)
    shares = np.array([[durations[hand].sum() for hand in deal(step, durations, 8)] for step in planned.steps])
    imbalance = shares.max(axis=1) / shares.mean(axis=1) - 1
    assert np.median(imbalance) < 0.03


def test_a_rank_may_get_nothing():
    hands = deal(np.array([4]), np.ones(5), 3)
    assert [len(hand) for hand in hands] == [1, 0, 0]


def test_neighbouring_steps_need_few_shards():
    _, shards, planned = plan(20_000, num_shards=64)
    window = planned.steps[: len(planned.steps) // 8]
    assert len({int(shards[i]) for step in window for i in step}) <= 16


def test_utterances_of_one_window_are_mixed_not_sorted_by_shard():
    _, shards, planned = plan(2_000, num_shards=4)
    first = shards[np.concatenate(planned.steps[:8])]
    assert len(set(first.tolist())) == 4
