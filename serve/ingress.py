"""The ingress deployment: HTTP in front, a handle to the model behind, and what happens when replicas die between."""

import asyncio
import logging
import time
from collections.abc import Collection
from pathlib import Path
from typing import Any

import ray.serve
from fastapi import FastAPI
from ray.exceptions import ActorUnavailableError, RayActorError, RayTaskError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
from ray.serve.handle import DeploymentHandle

from caspi.inference.exposure import check_exposure, is_loopback
from caspi.inference.transcription import Transcription
from serve.api import http_app
from serve.batching import Answer, Clip
from serve.deadline import by_deadline
from serve.errors import ApiError
from serve.metrics import Metrics
from serve.options import Options

logger = logging.getLogger(__name__)

# A clip that crashes the model must not go on to crash every replica: two more chances, then the client hears of it.
MAX_ATTEMPTS = 3

# A model that answered this recently needs no probe. Keeps readiness cheap, and true under full load.
READY_FOR_S = 5.0
PROBE_TIMEOUT_S = 2.0


class Ingress:
    """Answers HTTP: authenticates, limits, decodes, asks the model and formats. Holds no model, so it needs no GPU."""

    def __init__(self, model: DeploymentHandle, options: Options, key_hashes: Collection[str]) -> None:
        self._model = model
        self._options = options
        self._key_hashes = key_hashes
        self._metrics = Metrics(replica=ray.serve.get_replica_context().replica_id.unique_id)
        self._last_answer = float("-inf")
        # Here, and not only where `caspi serve` starts: `serve deploy` says the address to Serve alone.
        host = ray.serve.context._get_global_client().http_config.host or "0.0.0.0"
        has_keys = bool(key_hashes or options.api_keys_file)
        check_exposure(host, has_keys=has_keys, allow_anonymous=options.allow_anonymous)
        self._is_public = not is_loopback(host)

    def __serve_build_asgi_app__(self) -> FastAPI:
        """What Serve runs for HTTP, built in the replica: it never has to be pickled."""
        page = Path(__file__).with_name("web").joinpath("index.html").read_text(encoding="utf-8")
        return http_app(
            self,
            options=self._options,
            key_hashes=self._key_hashes,
            page=page,
            metrics=self._metrics,
            is_public=self._is_public,
        )

    async def transcribe(self, clip: Clip, *, deadline: float) -> Transcription:
        """The clip's transcription, whatever happens to the replicas meanwhile.

        Raises:
            ApiError: 429 when every queue is full, 503 when replicas keep dying, 504 at the deadline.
            CaspiError: what the model says about the request.
        """
        for attempt in range(1, MAX_ATTEMPTS + 1):
            try:
                answer: Answer = await self._call(clip, deadline)
                self._last_answer = time.monotonic()
                return answer.transcription
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
