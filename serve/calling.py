"""Asking the model deployment for one piece of audio, whatever happens to its replicas meanwhile.

A death costs the clips that were with that replica another try. One of them may have been the reason, so from then on
each has the engine of another replica for itself, and the board knows that it does. A clip during which a second
replica dies is poison: refused with 422, and remembered by its hash, so that it does not get near a model again. Where
replicas also die without it, somebody may be killing them, and it gets one more try.
"""

import asyncio
import hashlib
import logging
import uuid

from ray.exceptions import ActorUnavailableError, RayActorError, RayTaskError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
from ray.serve.handle import DeploymentHandle

from caspi.errors import CaspiError
from serve.batching import Answer, Clip
from serve.board import FORGET_POISON_AFTER_S, MAX_POISON, BoardClient, Expiring
from serve.deadline import by_deadline
from serve.errors import ApiError
from serve.metrics import Metrics

logger = logging.getLogger("ray.serve.caspi")

# Deaths that are nobody's fault, of machines or by operators, one after the other. The deadline is the other bound.
MAX_ATTEMPTS = 10
SHARE_EVERY_S = 2.0


class Quarantine:
    """The clips that ended a model's process twice, as this ingress knows them. Shared with the others by the board."""

    def __init__(self, board: BoardClient) -> None:
        self._board = board
        self._poison = Expiring(FORGET_POISON_AFTER_S, at_most=MAX_POISON)

    def check(self, clip: Clip) -> None:
        """Raises an ApiError, 422, for a clip that is known. Costs a hash, and only while any is."""
        if self._poison.items() and _hash(clip) in self._poison:
            raise _poisoned()

    def open_trial(self) -> "Trial":
        """For a clip that goes to a model now."""
        return Trial(self._board)

    async def convict(self, clip: Clip) -> ApiError:
        """Remember it. Returns the refusal."""
        self._poison.put(_hash(clip))
        await self.share()
        return _poisoned()

    async def share(self) -> None:
        """Tell the board what is known here, and learn what the others know."""
        self._poison.learn(await self._board.ask("share_poison", self._poison.times()) or {})

    async def keep_sharing(self) -> None:
        """Until cancelled."""
        while True:
            await self.share()
            await asyncio.sleep(SHARE_EVERY_S)


class Trial:
    """What speaks against a clip while it is tried again and again."""

    def __init__(self, board: BoardClient) -> None:
        self._board = board
        self._deaths: set[str] = set()  # actors that it was with
        self._was_pardoned = False
        self.attempt: str | None = None
        """A name for the next try, which is to be alone. None before the first death."""

    async def finds_guilty(self, actor: str) -> bool:
        """Whether it must be the clip that ended this actor."""
        if actor in self._deaths:  # sent there again before Serve knew: it never ran
            return False
        self._deaths.add(actor)
        await self._board.ask("note_death", actor)
        others = await self._board.ask("examine", self.attempt, self._deaths) if self.attempt else None
        self.attempt = uuid.uuid4().hex
        if others is None:
            return False
        guilty = self._was_pardoned or others == 0
        self._was_pardoned = True
        return guilty


class ModelCaller:
    """One model deployment, as the ingress asks it."""

    def __init__(
        self,
        handle: DeploymentHandle,
        *,
        quarantine: Quarantine,
        metrics: Metrics,
        retry_after_s: int,
    ) -> None:
        self._handle = handle
        self._quarantine = quarantine
        self._metrics = metrics
        self._retry_after_s = retry_after_s

    async def transcribe(self, clip: Clip, *, deadline: float) -> tuple[str, Answer, int]:
        """The version that answered, its answer, and how often the clip was tried again.

        Raises:
            ApiError: 422 for a clip that ends the model's process, 429 when every queue is full, 503 when replicas keep
                dying, 504 at the deadline.
            CaspiError: what the model says about the request.
        """
        self._quarantine.check(clip)
        trial = self._quarantine.open_trial()
        for num_retries in range(MAX_ATTEMPTS):
            try:
                version, answer = await self._call(clip, trial.attempt, deadline)
                return version, answer, num_retries
            except ActorUnavailableError as away:  # a RayActorError too, but the replica may well live
                reason = _note(away, num_retries)
            except RayActorError as death:
                reason = _note(death, num_retries)
                if await trial.finds_guilty(death.actor_id or ""):
                    self._metrics.count_poisoned()
                    raise await self._quarantine.convict(clip) from None
            self._metrics.count_retry(reason)
            # Until Serve has noticed, it may send us to the same replica again.
            await by_deadline(asyncio.sleep(0.02 * 2 ** min(num_retries, 5)), deadline)
        raise ApiError(503, "The model died while it worked on this recording.", code="model_died", retry_after_s=2)

    async def _call(self, clip: Clip, suspect: str | None, deadline: float) -> tuple[str, Answer]:
        response = self._handle.transcribe.remote(clip, suspect)
        try:
            version, answer = await by_deadline(response, deadline)
            return version, answer
        except (ApiError, asyncio.CancelledError):
            # Late, or the client hung up: the clip leaves the model's queue as well.
            response.cancel()
            raise
        except BackPressureError as full:
            message = "Every queue is full; try again soon."
            raise ApiError(429, message, code="rate_limit_exceeded", retry_after_s=self._retry_after_s) from full
        except DeploymentUnavailableError as gone:
            raise ApiError(503, "The model could not be deployed.", code="model_unavailable") from gone
        except RayTaskError as failure:
            raise failure.cause from failure  # the model's own exception, without the remote traceback in its text


def is_fault_of_model(error: Exception) -> bool:
    """Whether another model might answer what this one did not: neither the request nor its deadline is to blame."""
    if isinstance(error, ApiError):
        return error.status_code in (429, 503)
    return not isinstance(error, CaspiError)


def _note(death: Exception, num_retries: int) -> str:
    logger.warning("model replica gone error=%s retries=%d", type(death).__name__, num_retries)
    return "unavailable" if isinstance(death, ActorUnavailableError) else "died"


def _hash(clip: Clip) -> str:
    """All that the model is given."""
    given = hashlib.blake2b(clip.samples.tobytes(), digest_size=16)
    given.update(f"{clip.language}\0{clip.prompt}".encode())
    return given.hexdigest()


def _poisoned() -> ApiError:
    message = "This recording ends the model's process, twice by now; it is refused for an hour."
    return ApiError(422, message, param="file", code="poisoned_audio")
