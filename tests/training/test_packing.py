"""Packed micro-batches in the plan: who computes what, within which bounds, and how much of it is padding."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from caspi.corpus import Corpus
from caspi.errors import RunError
from caspi.recipe import parse_recipe, show
from caspi.recipe.sections import Batches, Training
from caspi.training import collating
from caspi.training.dealing import deal_packed
from caspi.training.plan import plan_epoch
from caspi.training.resuming import check_same_run
from tests.training.test_plan import computed, speech_like
from tests.training.whole_runs import changed


@pytest.mark.parametrize("bounds", [{"max_micro_batch_s": 60.0}, {"max_micro_batch_tokens": 900}])
def test_packs_are_full_and_never_more_than_that(bounds: dict):
    """The next utterance would not have fitted any more."""
    plan = plan_epoch(speech_like(5000), step_audio_s=700, seed=0, epoch=0)
    lengths = plan.index.durations_s if "max_micro_batch_s" in bounds else plan.index.num_tokens
    (bound,) = bounds.values()
    for step in computed(plan, 2, collation="packed", **bounds):
        for groups in step:
            for group, following in zip(groups, [*groups[1:], None], strict=True):
                assert len(group) == 1 or lengths[group].sum() <= bound
                assert following is None or lengths[group].sum() + lengths[following[0]] > bound


@pytest.mark.parametrize("world_size", [1, 2, 8, 64])
def test_ranks_together_have_each_utterance_of_a_step_once(world_size: int):
    plan = plan_epoch(speech_like(3000), step_audio_s=400, seed=0, epoch=0)
    for step, ranks in enumerate(computed(plan, world_size, collation="packed")):
        dealt = Counter(item for groups in ranks for group in groups for item in group.tolist())
        assert dealt == Counter(plan.utterances(step).tolist())


def test_eight_ranks_have_the_same_tokens_in_every_step():
    plan = plan_epoch(speech_like(40_000), step_audio_s=1400, seed=0, epoch=0)
    for ranks in computed(plan, 8, collation="packed"):
        tokens = [plan.index.num_tokens[np.concatenate(groups)].sum() for groups in ranks]
        assert max(tokens) <= 1.01 * np.mean(tokens)


@given(st.lists(st.integers(1, 1000), min_size=1, max_size=60), st.integers(1, 9))
def test_no_rank_has_more_than_the_least_one_and_an_utterance(costs: list[int], world_size: int):
    hands = deal_packed(np.array(costs), world_size)
    totals = [sum(costs[place] for run in hand for place in run) for hand in hands]
    assert sorted(place for hand in hands for run in hand for place in run) == list(range(len(costs)))
    assert max(totals) - min(totals) <= max(costs)


def test_a_rank_may_get_nothing():
    assert [len(hand) for hand in deal_packed(np.array([5, 3]), 4)] == [1, 1, 0, 0]


def test_cpus_pack_and_devices_without_the_kernel_bucket_unless_told_otherwise():
    cpu, other = torch.device("cpu"), torch.device("mps")
    assert collating.fitting(Training(), cpu) == "packed"
    assert collating.fitting(Training(), other) == "bucketed"
    assert collating.fitting(Training(batches=Batches(collation="bucketed")), cpu) == "bucketed"
    assert collating.fitting(Training(batches=Batches(collation="packed")), other) == "packed"


def test_ranks_that_differ_agree_on_what_all_of_them_can_do():
    assert collating.agreed(["packed", "packed"]) == "packed"
    assert collating.agreed(["packed", "bucketed"]) == "bucketed"


def test_a_run_may_go_on_with_another_collation(tmp_path: Path):
    """On other machines `auto` may mean another one, and it makes no difference."""
    recipe = parse_recipe({"name": "speech", "data": {"sources": [{"kind": "folder", "path": str(tmp_path)}]}})
    (tmp_path / "run.json").write_text("{}")
    (tmp_path / "recipe.yaml").write_text(show(recipe))
    corpus = Corpus(tmp_path, {"fingerprint": "same"})
    check_same_run(changed(recipe, batches={"collation": "bucketed"}), corpus, tmp_path)
    with pytest.raises(RunError, match="step_audio_s"):
        check_same_run(changed(recipe, batches={"step_audio_s": 7}), corpus, tmp_path)


def test_planned_gpus_pack_in_bf16():
    assert collating.planned(Training()) == "packed"
    assert collating.planned(Training(precision="fp32")) == "bucketed"
    assert collating.planned(Training(batches=Batches(collation="bucketed"))) == "bucketed"
