"""The ingress deployment: HTTP in front, handles to the model and its canary behind."""

import asyncio
import hashlib
import logging
import time
from collections.abc import Collection, Sequence
from pathlib import Path

import ray.serve
from fastapi import FastAPI
from prometheus_client import Metric
from ray.serve.handle import DeploymentHandle

from caspi.inference.exposure import check_exposure, is_loopback
from caspi.inference.transcription import Transcription
from serve import logs
from serve.api import http_app
from serve.batching import Answer, Clip
from serve.board import BoardClient
from serve.calling import ModelCaller, Quarantine, is_fault_of_model
from serve.deadline import by_deadline
from serve.metrics import Metrics
from serve.options import Options
from serve.versions import State

logger = logging.getLogger("ray.serve.caspi")

# A model that answered clips this recently is ready, though a probe may be stuck behind a full queue.
READY_FOR_S = 5.0
PROBE_EVERY_S = 1.0
PROBE_TIMEOUT_S = 2.0


class Ingress:
    """Answers HTTP: authenticates, limits, decodes, asks the model and formats. Holds no model, so it needs no GPU."""

    def __init__(
        self,
        model: DeploymentHandle,
        options: Options,
        key_hashes: Collection[str],
        canary: DeploymentHandle | None = None,
    ) -> None:
        context = ray.serve.get_replica_context()
        self._options = options
        self._key_hashes = key_hashes
        self._board = BoardClient(context.app_name, context.replica_id.unique_id)
        self._metrics = Metrics(context.replica_id.unique_id, siblings=self._counted_elsewhere)
        self._quarantine = Quarantine(self._board)
        self._handles = [model] if canary is None else [model, canary]
        self._callers = [
            ModelCaller(
                handle,
                quarantine=self._quarantine,
                metrics=self._metrics,
                retry_after_s=options.retry_after_s,
            )
            for handle in self._handles
        ]
        self._states: list[State] = []
        self._last_probe = self._last_answer = float("-inf")
        self._tasks: list[asyncio.Task[None]] = []
        # Here, and not only where `caspi serve` starts: `serve deploy` says the address to Serve alone.
        host = ray.serve.context._get_global_client().http_config.host or "0.0.0.0"
        has_keys = bool(key_hashes or options.api_keys_file)
        check_exposure(host, has_keys=has_keys, allow_anonymous=options.allow_anonymous)
        self._is_public = not is_loopback(host)

    def __serve_build_asgi_app__(self) -> FastAPI:
        """What Serve runs for HTTP, built in the replica: it never has to be pickled."""
        self._tasks = [
            asyncio.create_task(self._board.keep_publishing(self._metrics.registry)),
            asyncio.create_task(self._quarantine.keep_sharing()),
        ]
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

        The canary's share is drawn by request. What the canary fails goes to the stable model.

        Raises:
            ApiError, CaspiError: as `ModelCaller.transcribe`.
        """
        record = logs.current()
        stable, *canaries = self._callers
        if canaries and is_drawn(record.request_id, self._options.canary.share if self._options.canary else 0):
            try:
                return self._note(record, *await canaries[0].transcribe(clip, deadline=deadline))
            except Exception as error:
                if not is_fault_of_model(error):
                    raise
                self._metrics.count_fallback(type(error).__name__)
                logger.warning("canary failed, asking the stable model error=%s", type(error).__name__)
        return self._note(record, *await stable.transcribe(clip, deadline=deadline))

    async def describe(self) -> Sequence[State]:
        """The models that answered a moment ago or do now: the stable one, then its canary.

        Empty while the stable one does not answer; the canary's absence keeps nobody out.
        """
        now = time.monotonic()
        if self._states and now < self._last_probe + PROBE_EVERY_S:
            return self._states
        self._last_probe = now
        found = [await self._probe(handle) for handle in self._handles]
        if found[0] is not None:
            self._last_answer = time.monotonic()
            self._states = [state for state in found if state is not None]
        elif time.monotonic() > self._last_answer + READY_FOR_S:
            self._states = []
        return self._states

    async def _probe(self, handle: DeploymentHandle) -> State | None:
        probe = handle.describe.remote()
        try:
            state: State = await by_deadline(probe, time.monotonic() + PROBE_TIMEOUT_S)
        except Exception as error:
            probe.cancel()
            logger.info("not ready deployment=%s error=%s", handle.deployment_name, type(error).__name__)
            return None
        return state

    def _note(self, record: logs.Record, version: str, answer: Answer, num_retries: int) -> Transcription:
        self._last_answer = time.monotonic()
        record.add_version(version)
        record.num_pieces += 1
        record.num_retries += num_retries
        record.audio_s += answer.transcription.duration_s
        record.queue_s += answer.queue_s
        record.compute_s += answer.compute_s
        self._metrics.observe_piece(version, queue_s=answer.queue_s, compute_s=answer.compute_s, fill=answer.fill)
        return answer.transcription

    async def _counted_elsewhere(self) -> Sequence[Metric]:
        return await self._board.ask("collect", self._board.replica, timeout_s=1) or ()


def is_drawn(request_id: str, share: float) -> bool:
    """Whether a request is of the share. The same id always is, or never."""
    drawn = int.from_bytes(hashlib.blake2b(request_id.encode(), digest_size=8).digest(), "big")
    return drawn < share * 2**64
