"""The Ray Serve application: a CPU ingress in front of a model deployment.

    serve run serve.app:build model=runs/demo/run/model
    serve deploy serve/config.yaml

Two deployments, because Ray does not repeat an accepted HTTP request whose replica dies. The ingress calls the model
through a handle and repeats the call itself; transcribing twice does no harm.
"""

import asyncio
import functools
import logging
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import ray.serve
from fastapi import FastAPI
from ray.exceptions import ActorUnavailableError, RayActorError, RayTaskError
from ray.serve.config import BackpressureConfig
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
from ray.serve.handle import DeploymentHandle

from caspi import audio, settings
from caspi.inference.transcription import Transcription
from serve.api import by_deadline, http_app
from serve.batching import Batcher, Clip
from serve.errors import ApiError
from serve.gate import hash_key
from serve.metrics import Metrics
from serve.options import Options, parse

logger = logging.getLogger(__name__)

# A clip that crashes the model must not go on to crash every replica: two more chances, then the client hears of it.
MAX_ATTEMPTS = 3

# A model that answered this recently needs no probe. Keeps readiness cheap, and true under full load.
READY_FOR_S = 5.0
PROBE_TIMEOUT_S = 2.0

# Room beside the transcriptions for /healthz, /metrics and refusals, which must be quick when all else is not.
NUM_EXTRA_REQUESTS = 64


class Transcriber(Protocol):
    """The part of `caspi.Transcriber` that serving needs."""

    def transcribe_batch(
        self,
        clips: Sequence[np.ndarray],
        *,
        languages: Sequence[str | None] | None = None,
        prompts: Sequence[str] | None = None,
    ) -> Sequence[Transcription]: ...


class TranscriptionModel:
    """One model replica: owns the weights and batches what comes; knows nothing of HTTP."""

    def __init__(self, load: Callable[[], Transcriber], options: Options) -> None:
        self._transcriber = load()
        self._batcher = Batcher(self._forward, max_batch_s=options.max_batch_s, wait_s=options.batch_wait_s)
        self._stuck_after_s = 2 * options.request_timeout_s
        # A second of silence: what is slow only once is slow now, and a model that cannot run fails to deploy.
        self._forward([Clip(np.zeros(audio.SAMPLE_RATE, np.float32), duration_s=1.0)])

    async def transcribe(self, clip: Clip) -> Transcription:
        """The clip's transcription, from a batch that it shares with its neighbours in time."""
        return await self._batcher.submit(clip)

    async def answer_probe(self) -> None:
        """Returns while the replica's event loop turns."""

    def check_health(self) -> None:
        """Have Serve replace this replica when a forward pass hangs, as a wedged GPU does."""
        if self._batcher.busy_s > self._stuck_after_s:
            raise RuntimeError(f"a forward pass has been running for {self._batcher.busy_s:.0f} s")

    def _forward(self, clips: Sequence[Clip]) -> Sequence[Transcription]:
        return self._transcriber.transcribe_batch(
            [clip.samples for clip in clips],
            languages=[clip.language for clip in clips],
            prompts=[clip.prompt for clip in clips],
        )


class Ingress:
    """Answers HTTP: authenticates, limits, decodes, asks the model and formats. Holds no model, so it needs no GPU."""

    def __init__(self, model: DeploymentHandle, options: Options, key_hashes: Collection[str]) -> None:
        self._model = model
        self._options = options
        self._key_hashes = key_hashes
        self._metrics = Metrics(replica=ray.serve.get_replica_context().replica_id.unique_id)
        self._last_answer = float("-inf")

    def __serve_build_asgi_app__(self) -> FastAPI:
        """What Serve runs for HTTP, built in the replica: it never has to be pickled."""
        page = Path(__file__).with_name("web").joinpath("index.html").read_text(encoding="utf-8")
        return http_app(self, options=self._options, key_hashes=self._key_hashes, page=page, metrics=self._metrics)

    async def transcribe(self, clip: Clip, *, deadline: float) -> Transcription:
        """The clip's transcription, whatever happens to the replicas meanwhile.

        Raises:
            ApiError: 429 when every queue is full, 503 when replicas keep dying, 504 at the deadline.
            CaspiError: what the model says about the request.
        """
        for attempt in range(1, MAX_ATTEMPTS + 1):
            try:
                transcription: Transcription = await self._call(clip, deadline)
                self._last_answer = time.monotonic()
                return transcription
            except (RayActorError, ActorUnavailableError) as death:
                self._metrics.count_retry()
                logger.warning("model replica died attempt=%d/%d error=%s", attempt, MAX_ATTEMPTS, type(death).__name__)
        raise ApiError(503, "The model died while it worked on this recording.", code="model_died")

    async def is_ready(self) -> bool:
        """Whether a model replica answered a moment ago, or does now."""
        if time.monotonic() - self._last_answer < READY_FOR_S:
            return True
        probe = self._model.answer_probe.remote()
        try:
            await by_deadline(probe, time.monotonic() + PROBE_TIMEOUT_S)
        except Exception as error:
            probe.cancel()
            logger.info("not ready error=%s", type(error).__name__)
            return False
        self._last_answer = time.monotonic()
        return True

    async def _call(self, clip: Clip, deadline: float) -> Any:
        response = self._model.transcribe.remote(clip)
        try:
            return await by_deadline(response, deadline)
        except (ApiError, asyncio.CancelledError):
            # Late, or the client hung up: the clip leaves the model's queue as well.
            response.cancel()
            raise
        except BackPressureError as full:
            message = "Every queue is full; try again soon."
            wait_s = self._options.retry_after_s
            raise ApiError(429, message, code="rate_limit_exceeded", retry_after_s=wait_s) from full
        except DeploymentUnavailableError as gone:
            raise ApiError(503, "The model could not be deployed.", code="model_unavailable") from gone
        except RayTaskError as failure:
            raise failure.cause from failure  # the model's own exception, without the remote traceback in its text


def build(args: Mapping[str, Any]) -> ray.serve.Application:
    """The application, as `serve run serve.app:build key=value` and `config.yaml` ask for it.

    API keys are read here, from `CASPI_API_KEYS`, and only their hashes go to the replicas.

    Raises:
        RequestError: an argument is unknown, missing or wrong.
    """
    options = parse(args)
    return assemble(options, functools.partial(load_transcriber, options))


def load_transcriber(options: Options) -> Transcriber:
    """The model, on this replica's device."""
    from caspi.inference.transcriber import Transcriber as Loader  # pulls in torch, which the ingress does without
    from caspi.recipe.sections import Inference

    limits = Inference(max_batch_s=options.max_batch_s, max_tokens_per_s=options.max_tokens_per_s)
    return Loader.load(options.model, limits=limits)


def assemble(options: Options, load: Callable[[], Transcriber]) -> ray.serve.Application:
    """The two deployments, bound. Every limit is set: Serve's own defaults queue without bound and wait for ever."""
    key_hashes = sorted(hash_key(key) for key in settings.read().api_keys)
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
