"""The Ray Serve application: a CPU ingress in front of a model deployment.

    serve run serve.app:build model=runs/demo/run/model
    serve deploy serve/config.yaml

Two deployments, because Ray does not repeat an accepted HTTP request whose replica dies. The ingress calls the model
through a handle and repeats the call itself; transcribing twice does no harm.
"""

import functools
import math
from collections.abc import Mapping
from typing import Any

import ray.serve
from ray.serve.config import AutoscalingConfig, AutoscalingPolicy, BackpressureConfig

from caspi import settings
from caspi.allocation import ONE_HEAP
from caspi.inference.api_keys import check_chosen, hash_key, read_keys
from serve.ingress import Ingress
from serve.model import Load, TranscriptionModel, load_engine
from serve.options import Autoscaling, Options, parse
from serve.versions import pin

# Room beside the transcriptions for /healthz, /metrics and refusals, which must be quick when all else is not.
NUM_EXTRA_REQUESTS = 64

# A clip goes to the model inside the message that asks for it, and not by the object store, which costs both sides and
# the raylet 4 ms of CPU together. 4 MiB hold every piece: 30 s of float32 at 16 kHz are 2 MB.
CLIPS_IN_MESSAGES = {"RAY_max_direct_call_object_size": str(4 * 2**20)}

# Serve's own work, ours and the choice of a replica happen in one event loop of a process instead of three in a thread
# each: 57 context switches a request instead of 80, and half a millisecond less (docs/benchmarks.md). Nothing of ours
# blocks a loop. Handles can then only be awaited, which is all that we do.
ONE_LOOP = {"RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0", "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "0"}

# What a replica of the model is given at once is counted in clips, though engines are filled by their seconds.
USUAL_CLIP_S = 5.0
MIN_CLIPS = 16


def build(args: Mapping[str, Any]) -> ray.serve.Application:
    """The application, as `serve run serve.app:build key=value` and `config.yaml` ask for it.

    Aliases of models become versions here.

    Raises:
        RequestError: an argument is unknown, missing or wrong, or an API key is too short.
        ModelError, TrackingError: MLflow has no such model, or does not answer.
    """
    options = parse(args)
    return assemble(options, functools.partial(load_engine, options=options))


def assemble(options: Options, load: Load) -> ray.serve.Application:
    """The deployments, bound.

    API keys are read here, from `CASPI_API_KEYS`, and only their hashes go to the replicas.
    """
    api_keys = settings.read().api_keys
    check_chosen(api_keys)
    options = options.with_defaults(settings.read())
    if options.api_keys_file is not None:
        read_keys(options.api_keys_file)  # a bad one is refused here, and not by every replica in turn
    key_hashes = sorted(map(hash_key, api_keys))
    model = _model(options, "TranscriptionModel", options.model, **_copies(options))
    followed = options.model if options.follow_s else ""
    arguments = [model.bind(load, options, followed), options, key_hashes]
    if options.canary:
        canary = _model(options, "CanaryModel", options.canary.model, num_replicas=options.canary.replicas)
        arguments.append(canary.bind(load, options))
    ingress = ray.serve.deployment(
        name="Ingress",
        num_replicas=options.ingress_replicas,
        max_ongoing_requests=options.max_in_flight + NUM_EXTRA_REQUESTS,
        max_queued_requests=options.max_in_flight + NUM_EXTRA_REQUESTS,
        graceful_shutdown_timeout_s=options.max_request_s,
        max_surge_percent=100,  # it needs half a CPU, and without it a single one would be away for seconds
        ray_actor_options={
            "num_cpus": 0.5,
            "runtime_env": {"env_vars": CLIPS_IN_MESSAGES | ONE_LOOP | ONE_HEAP | options.worker_env},
        },
        **_limits(options),
    )(ray.serve.ingress()(Ingress))
    return ingress.bind(*arguments)


def _model(options: Options, name: str, model: str, **copies: Any) -> ray.serve.Deployment:
    """A model deployment. Its `user_config` says which model, so another one can take its place."""
    return ray.serve.deployment(
        name=name,
        user_config=pin(model),
        # As many clips as fill the engine twice, so that the next ones are beside it when it has room; the others wait
        # in the ingress, where a copy that is started can still have them.
        max_ongoing_requests=max(MIN_CLIPS, math.ceil(2 * options.max_batch_s / USUAL_CLIP_S)),
        # The ingress has let them in: a first piece of each request and half as many of long recordings.
        max_queued_requests=2 * options.max_in_flight,
        max_surge_percent=options.max_surge_percent,
        graceful_shutdown_timeout_s=options.request_timeout_s,
        ray_actor_options={
            "num_cpus": options.num_cpus,
            "num_gpus": options.num_gpus,
            "runtime_env": {"env_vars": ONE_LOOP | ONE_HEAP | options.worker_env},
        },
        **copies,
        **_limits(options),
    )(TranscriptionModel)


def _copies(options: Options) -> dict[str, Any]:
    if options.autoscaling is None:
        return {"num_replicas": options.replicas}
    return {"autoscaling_config": _autoscaling(options, options.autoscaling)}


def _limits(options: Options) -> dict[str, Any]:
    """What both deployments have. Every limit is set: Serve's own defaults queue without bound and wait for ever."""
    return {
        "backpressure_config": BackpressureConfig(status_code=429, retry_after_s=options.retry_after_s),
        "graceful_shutdown_wait_loop_s": 0.5,  # a drain waits for what is under way, by the timeouts above
        "health_check_period_s": 5,
        "health_check_timeout_s": 30,
        "max_constructor_retry_count": 3,
    }


def _autoscaling(options: Options, scaling: Autoscaling) -> AutoscalingConfig:
    target_backlog_s = scaling.target_backlog_s or 2 * options.max_batch_s
    return AutoscalingConfig(
        min_replicas=scaling.min_replicas,
        max_replicas=scaling.max_replicas,
        initial_replicas=max(1, scaling.min_replicas),
        upscale_delay_s=scaling.upscale_delay_s,
        downscale_delay_s=scaling.downscale_delay_s,
        look_back_period_s=scaling.look_back_s,
        metrics_interval_s=scaling.report_every_s,
        policy=AutoscalingPolicy(
            policy_function="serve.autoscaling:BacklogPolicy",
            policy_kwargs={"target_backlog_s": target_backlog_s, "calm": scaling.calm},
        ),
    )
