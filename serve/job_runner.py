"""Does asynchronous work, in every ingress process, beside the requests that somebody waits for."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress

from pydantic import TypeAdapter
from sqlalchemy.exc import SQLAlchemyError

from caspi.inference.long_form import Segment, Transcript
from caspi.inference.transcription import Transcription
from serve import logs
from serve.backend import Backend
from serve.batching import Clip
from serve.errors import ApiError, translate
from serve.job_recordings import JobRecordings
from serve.job_store import MAX_ATTEMPTS, Job, JobStore
from serve.metrics import JobOutcome, Metrics
from serve.options import Options
from serve.patience import patiently
from serve.recordings import transcribe_recording
from serve.schemas import Fields
from serve.versions import State
from serve.webhooks import Webhooks

logger = logging.getLogger(__name__)

FIELDS, TRANSCRIPT = TypeAdapter(Fields), TypeAdapter(Transcript)

# How soon a process sees what another one was given; its own jobs it sees at once.
POLL_S = 1.0

# Webhooks under way at once, so that a receiver that does not answer does not hold up the others.
NUM_DELIVERIES = 4

# Between two tries of a piece that found every queue full.
LONGEST_PAUSE_S = 10.0

# Before the next attempt at a job that failed by no fault of its own.
RETRY_S = 5.0


class PatientBackend:
    """A backend whose full queues and dying replicas are waited out: a job is in no hurry."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    async def transcribe(self, clip: Clip, *, deadline: float) -> Transcription:
        """As the backend's, at the deadline at last.

        Raises:
            ApiError: neither 429 nor 503, unless the deadline is near.
        """
        return await patiently(
            lambda: self._backend.transcribe(clip, deadline=deadline),
            statuses=(429, 503),
            deadline=deadline,
            longest_pause_s=LONGEST_PAUSE_S,
        )

    async def describe(self) -> Sequence[State]:
        """As the backend's."""
        return await self._backend.describe()


class JobRunner:
    """Claims jobs, does them, tells who wants to know, and cleans up."""

    def __init__(
        self,
        backend: Backend,
        *,
        store: JobStore,
        recordings: JobRecordings,
        webhooks: Webhooks,
        options: Options,
        metrics: Metrics,
        holder: str,
    ) -> None:
        self._backend = PatientBackend(backend)
        self._store = store
        self._recordings = recordings
        self._webhooks = webhooks
        self._options = options
        self._metrics = metrics
        self._holder = holder
        self._news = asyncio.Event()

    def notify(self) -> None:
        """There is a new job, or one less: look now."""
        self._news.set()

    async def run(self) -> None:
        """Until cancelled; jobs under way then go back to the others at once."""
        async with asyncio.TaskGroup() as tasks:
            for _ in range(self._options.jobs_at_once):
                tasks.create_task(self._for_ever(self._work))
            for _ in range(NUM_DELIVERIES):
                tasks.create_task(self._for_ever(self._deliver))
            tasks.create_task(self._for_ever(self._clean))

    async def _for_ever(self, step: Callable[[], Awaitable[float]]) -> None:
        """Repeat `step`, which returns the seconds to wait. A database that is gone for a while must not end it."""
        while True:
            try:
                pause_s = await step()
            except (SQLAlchemyError, OSError) as error:
                logger.error("asynchronous work waits error=%s: %s", type(error).__name__, error)
                pause_s = RETRY_S
            except Exception:
                logger.exception("asynchronous work failed step=%s", step.__name__)
                pause_s = RETRY_S
            self._news.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await self._news.wait()

    async def _work(self) -> float:
        job = await asyncio.to_thread(self._store.claim, self._holder, lease_s=self._options.job_lease_s)
        if job is None:
            return POLL_S
        logger.info("job begins id=%s attempt=%d", job.id, job.attempts)
        with self._metrics.jobs_in_progress.track_inprogress():
            await self._do(job)
        return 0.0

    async def _do(self, job: Job) -> None:
        """One attempt: transcribe while the lease holds, then write down how it ended."""
        progress = Progress()
        work = asyncio.create_task(self._transcribe(job, progress))
        try:
            await self._keep_lease(job, work, progress)
        except asyncio.CancelledError:
            await _stop(work)
            # This process ends; shielded, as it is being cancelled.
            await asyncio.shield(asyncio.to_thread(self._store.release, job, delay_s=0.0, counts=False))
            raise
        outcome = "left" if work.cancelled() else await self._settle(job, work)
        self._metrics.count_job(outcome)

    async def _keep_lease(self, job: Job, work: asyncio.Task[Transcript], progress: "Progress") -> None:
        """Return when the work is done, or has been stopped because the job is no longer ours."""
        lease_s = self._options.job_lease_s
        held_until = time.monotonic() + lease_s
        while not (await asyncio.wait([work], timeout=lease_s / 4))[0]:
            try:
                renewed_at = time.monotonic()
                is_ours = await asyncio.to_thread(
                    self._store.renew, job, lease_s=lease_s, processed_s=progress.processed_s
                )
                held_until = renewed_at + lease_s
            except SQLAlchemyError as error:
                is_ours = time.monotonic() < held_until
                logger.warning("lease not renewed id=%s error=%s", job.id, type(error).__name__)
            if not is_ours:
                logger.info("job left id=%s", job.id)
                return await _stop(work)

    async def _transcribe(self, job: Job, progress: "Progress") -> Transcript:
        options = self._options.model_copy(update={"max_audio_s": self._options.max_job_audio_s})
        logs.start_record(job.id)  # all its pieces go to one model, canary or not
        with self._recordings.local(job.id) as path:
            transcript = await transcribe_recording(
                self._backend,
                path,
                FIELDS.validate_json(job.fields),
                name=job.file_name,
                options=options,
                deadline=time.monotonic() + self._options.job_window_s,
                on_segment=progress.note,
            )
        self._metrics.count_audio(transcript.duration_s)
        return transcript

    async def _settle(self, job: Job, work: asyncio.Task[Transcript]) -> JobOutcome:
        """Write down how the work ended; returns how the attempt did."""
        error = work.exception()
        if error is None:
            transcript = work.result()
            result = TRANSCRIPT.dump_json(transcript).decode()
            ended = await asyncio.to_thread(self._store.complete, job, result, processed_s=transcript.duration_s)
        else:
            refusal = translate(error) if isinstance(error, Exception) else ApiError(500, "interrupted")
            if refusal.status_code >= 500 and job.attempts < MAX_ATTEMPTS:
                logger.warning("job fails id=%s attempt=%d", job.id, job.attempts, exc_info=error)
                delay_s = RETRY_S * 2**job.attempts
                await asyncio.to_thread(self._store.release, job, delay_s=delay_s, counts=True)
                return "retried"
            ended = await asyncio.to_thread(self._store.fail, job, error_body(refusal))
        if ended is None:
            return "left"
        logger.info("job ends id=%s status=%s", ended.id, ended.status)
        await asyncio.to_thread(self._recordings.delete, job.id)
        self.notify()  # its webhook is due
        return "completed" if error is None else "failed"

    async def _deliver(self) -> float:
        delivery = await asyncio.to_thread(self._store.claim_webhook, lease_s=2 * self._webhooks.timeout_s)
        if delivery is None:
            return POLL_S
        state, retry_after_s = await self._webhooks.deliver(delivery)
        self._metrics.count_webhook(state)
        await asyncio.to_thread(self._store.settle_webhook, delivery.job.id, state=state, retry_after_s=retry_after_s)
        return 0.0

    async def _clean(self) -> float:
        """End what is too late, forget what is too old, delete recordings that nobody needs."""
        died = ApiError(500, f"Its server died {MAX_ATTEMPTS} times while working on it.", code="server_died")
        for job_id in await asyncio.to_thread(self._store.expire, error=error_body(died)):
            logger.warning("job given up id=%s", job_id)
            self._metrics.count_job("given_up")
            await asyncio.to_thread(self._recordings.delete, job_id)
        await asyncio.to_thread(self._store.forget, kept_s=self._options.job_kept_s)
        wanted = await asyncio.to_thread(self._store.active_ids)
        await asyncio.to_thread(self._recordings.sweep, wanted, older_than_s=2 * self._options.job_upload_timeout_s)
        await asyncio.sleep(self._options.job_lease_s)  # whatever news there is
        return 0.0


class Progress:
    """How far a job has come."""

    def __init__(self) -> None:
        self.processed_s = 0.0

    def note(self, segment: Segment) -> None:
        """A segment is there, and all before it."""
        self.processed_s = segment.end_s


def error_body(error: ApiError) -> str:
    """The error as a client would have got it."""
    return bytes(error.response().body).decode()


async def _stop(work: asyncio.Task[Transcript]) -> None:
    work.cancel()
    await asyncio.wait([work])
