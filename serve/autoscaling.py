"""How many copies of the model there should be: by the seconds of audio that wait, not by requests.

A request is a word or three hours; seconds of audio are what a model works through at a steady pace. Serve pickles this
module by value into its controller, so it imports nothing of ours.
"""

import math
from typing import Any

from ray.serve.config import AutoscalingContext

BACKLOG = "backlog_s"
"""What a model replica reports: seconds of audio waiting and running there."""

MEAN_CLIP = "mean_clip_s"
"""What a model replica reports: seconds of audio of its usual clip."""


def wanted_replicas(backlog_s: float, current: int, *, target_backlog_s: float, calm: float) -> int:
    """How many replicas a backlog is worth.

    Up as soon as each has more than `target_backlog_s`. Down only when those that stay would have less than `calm` of
    that: between the two nothing changes, so a steady load never makes the number swing.
    """
    up = math.ceil(backlog_s / target_backlog_s)
    if up > current:
        return up
    return min(current, math.ceil(backlog_s / (calm * target_backlog_s)))


class BacklogPolicy:
    """What Serve's autoscaler asks, about once a second. Its delays, bounds and start from zero are around it.

    Clips that still wait in the ingress, because every replica is full, count as the usual clip each.
    """

    def __init__(self, target_backlog_s: float, calm: float) -> None:
        self._target_backlog_s = target_backlog_s
        self._calm = calm

    def __call__(self, context: AutoscalingContext) -> tuple[int, dict[str, Any]]:
        reported = context.aggregated_metrics or {}
        waiting_s = context.total_queued_requests * _mean(reported.get(MEAN_CLIP, {}).values())
        backlog_s = sum(reported.get(BACKLOG, {}).values()) + waiting_s
        if backlog_s == 0 and context.total_num_requests > 0:
            backlog_s = 1e-3  # a request that no replica has reported yet keeps the last one from going
        wanted = wanted_replicas(
            backlog_s, context.target_num_replicas, target_backlog_s=self._target_backlog_s, calm=self._calm
        )
        return wanted, context.policy_state


def _mean(values: Any) -> float:
    numbers = list(values)
    return sum(numbers) / len(numbers) if numbers else 1.0
