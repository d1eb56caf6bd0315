"""How many copies a backlog is worth, and Serve acting on it."""

import itertools
import json
import time
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import ray.serve

from caspi.inference.serving import APPLICATION
from serve.autoscaling import BacklogPolicy, wanted_replicas
from tests.serve.conftest import build_with, run
from tests.serve.load import Load


@pytest.mark.parametrize(
    ("backlog_s", "current", "wanted"),
    [(0, 1, 0), (1, 1, 1), (100, 1, 1), (101, 1, 2), (450, 2, 5), (90, 2, 2), (60, 2, 2), (50, 2, 1), (0, 3, 0)],
)
def test_up_above_the_target_and_down_well_below_it(backlog_s: float, current: int, wanted: int) -> None:
    assert wanted_replicas(backlog_s, current, target_backlog_s=100, calm=0.5) == wanted


@pytest.mark.parametrize("level_s", [40, 99, 101, 149, 151, 199, 201, 350])
def test_a_load_that_wobbles_by_a_fifth_does_not_make_the_number_swing(level_s: float) -> None:
    wobble = itertools.cycle([0.9, 1.1, 1.0, 0.9, 1.1])
    numbers = [1]
    for factor, _ in zip(wobble, range(100), strict=False):
        numbers.append(wanted_replicas(factor * level_s, numbers[-1], target_backlog_s=100, calm=0.5))
    assert numbers == sorted(numbers), "it never went down again"
    assert len(set(numbers[10:])) == 1


def context(**values: Any) -> Any:
    usual = {"total_queued_requests": 0, "total_num_requests": 0, "target_num_replicas": 1, "policy_state": {}}
    return SimpleNamespace(**{**usual, **values})


def test_what_waits_in_the_ingress_counts_as_usual_clips() -> None:
    policy = BacklogPolicy(target_backlog_s=100, calm=0.5)
    reported = {"backlog_s": {"a": 60.0, "b": 80.0}, "mean_clip_s": {"a": 8.0, "b": 12.0}}
    assert policy(context(aggregated_metrics=reported, total_queued_requests=16))[0] == 3


def test_a_request_that_no_replica_has_reported_keeps_the_last_one() -> None:
    policy = BacklogPolicy(target_backlog_s=100, calm=0.5)
    assert policy(context(aggregated_metrics={}, total_num_requests=1))[0] == 1
    assert policy(context(aggregated_metrics={}))[0] == 0


def slow_double() -> type:
    class Slow:
        def transcribe_batch(self, clips: Sequence[np.ndarray], **_: Any) -> list[Any]:
            from caspi.inference.transcription import Transcription

            time.sleep(0.5)
            return [Transcription("heard", "Hebrew", len(clip) / 16000) for clip in clips]

    return Slow


def num_replicas() -> int:
    states = ray.serve.status().applications[APPLICATION].deployments["TranscriptionModel"].replica_states
    return states.get("RUNNING", 0)


def wait_for_replicas(wanted: int, *, timeout_s: float = 60) -> None:
    deadline = time.monotonic() + timeout_s
    while num_replicas() != wanted:
        assert time.monotonic() < deadline, f"{num_replicas()} replicas, expected {wanted}"
        time.sleep(0.2)


def test_a_backlog_starts_a_second_copy_and_calm_ends_it(ray_2_cpus: None) -> None:
    quick = {"upscale_delay_s": 0.5, "downscale_delay_s": 1, "look_back_s": 2, "report_every_s": 0.3}
    autoscaling = {"max_replicas": 2, "target_backlog_s": 4, **quick}
    with run(build_with(slow_double(), max_batch_s=2, autoscaling=autoscaling)) as url:
        assert num_replicas() == 1
        with Load(url, num_clients=8, seconds_of_audio=1.0) as load:
            wait_for_replicas(2)
        assert load.failures == [] and load.num_good > 0
        wait_for_replicas(1)


def test_it_goes_to_zero_and_comes_back_for_the_next_request(ray_2_cpus: None) -> None:
    quick = {"upscale_delay_s": 0.5, "downscale_delay_s": 1, "look_back_s": 2, "report_every_s": 0.3}
    with run(build_with(slow_double(), autoscaling={"min_replicas": 0, "max_replicas": 1, **quick})) as url:
        wait_for_replicas(0)
        with Load(url, num_clients=1, seconds_of_audio=1.0, stop_after=1) as load:
            load.wait()
    assert json.dumps(load.failures) == "[]"
    assert load.num_good == 1
