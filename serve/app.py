"""The Ray Serve application: a CPU ingress in front of a model deployment.

    serve run serve.app:build model=runs/demo/run/model
    serve deploy serve/config.yaml

Two deployments, because Ray does not repeat an accepted HTTP request whose replica dies. The ingress calls the model
through a handle and repeats the call itself; transcribing twice does no harm.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import ray.serve
from ray.serve.config import BackpressureConfig

from caspi import settings
from caspi.inference.api_keys import check_chosen, hash_key, read_keys
from caspi.inference.engine import BatchTranscriber, Engine
from serve.ingress import Ingress
from serve.model import TranscriptionModel, load_engine
from serve.options import Options, parse

# Room beside the transcriptions for /healthz, /metrics and refusals, which must be quick when all else is not.
NUM_EXTRA_REQUESTS = 64


def build(args: Mapping[str, Any]) -> ray.serve.Application:
    """The application, as `serve run serve.app:build key=value` and `config.yaml` ask for it.

    Raises:
        RequestError: an argument is unknown, missing or wrong, or an API key is too short.
    """
    options = parse(args)
    return assemble(options, functools.partial(load_engine, options))


def assemble(options: Options, load: Callable[[], Engine | BatchTranscriber]) -> ray.serve.Application:
    """The two deployments, bound. Every limit is set: Serve's own defaults queue without bound and wait for ever.

    API keys are read here, from `CASPI_API_KEYS`, and only their hashes go to the replicas.
    """
    api_keys = settings.read().api_keys
    check_chosen(api_keys)
    options = options.with_defaults(settings.read())
    if options.api_keys_file is not None:
        read_keys(options.api_keys_file)  # a bad one is refused here, and not by every replica in turn
    key_hashes = sorted(map(hash_key, api_keys))
    shared = {
        "backpressure_config": BackpressureConfig(status_code=429, retry_after_s=options.retry_after_s),
        "graceful_shutdown_wait_loop_s": 0.5,
        "graceful_shutdown_timeout_s": options.request_timeout_s,
        "health_check_period_s": 5,
        "health_check_timeout_s": 30,
        "max_constructor_retry_count": 3,
    }
    runtime_env = {"env_vars": options.worker_env} if options.worker_env else {}
    model = ray.serve.deployment(
        name="TranscriptionModel",
        num_replicas=options.replicas,
        max_ongoing_requests=options.max_in_flight,
        max_queued_requests=options.max_in_flight,
        ray_actor_options={"num_cpus": options.num_cpus, "num_gpus": options.num_gpus, "runtime_env": runtime_env},
        **shared,
    )(TranscriptionModel)
    ingress = ray.serve.deployment(
        name="Ingress",
        num_replicas=options.ingress_replicas,
        max_ongoing_requests=options.max_in_flight + NUM_EXTRA_REQUESTS,
        max_queued_requests=options.max_in_flight + NUM_EXTRA_REQUESTS,
        ray_actor_options={"num_cpus": 0.5, "runtime_env": runtime_env},
        **shared,
    )(ray.serve.ingress()(Ingress))
    return ingress.bind(model.bind(load, options), options, key_hashes)
