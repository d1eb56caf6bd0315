"""`/v1/audio/transcriptions/jobs`: recordings of hours, submitted now and fetched later.

OpenAI has no such thing for transcriptions; its background responses and batches are the model for names and states.
A job belongs to who submitted it: to all others it does not exist.
"""

import asyncio
import dataclasses
import json
import os
import secrets
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from fastapi import FastAPI, Header, Query, Request
from fastapi.responses import JSONResponse, Response
from sqlalchemy.exc import OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from starlette.datastructures import FormData, UploadFile

from caspi.errors import RequestError
from serve.backend import Backend
from serve.body import read_form
from serve.errors import ApiError
from serve.form import check, parse
from serve.gate import JOBS
from serve.job_recordings import JobRecordings
from serve.job_runner import FIELDS, TRANSCRIPT, JobRunner
from serve.job_store import Job, JobStore, new_id
from serve.metrics import Metrics
from serve.models import check_model
from serve.options import Options
from serve.schemas import ErrorDetail, Fields, JobList, JobObject
from serve.transcriptions import answer, render, request_body
from serve.webhooks import Webhooks

Status = Literal["queued", "in_progress", "completed", "failed", "cancelled", "expired"]

WEBHOOK_FIELDS = {
    "webhook_url": {"type": "string", "description": "Called when the job has ended."},
    "webhook_secret": {
        "type": "string",
        "description": "Signs it: `whsec_` and 24 to 64 random bytes in base64.",
    },
}

# What a 429 advises: jobs take minutes.
RETRY_AFTER_S = 30


@dataclass(frozen=True, slots=True)
class Jobs:
    """What asynchronous work needs in an ingress process."""

    store: JobStore
    recordings: JobRecordings
    webhooks: Webhooks
    runner: JobRunner

    @asynccontextmanager
    async def lifespan(self, app: FastAPI) -> AsyncIterator[None]:
        """Work on jobs while the application runs."""
        running = asyncio.create_task(self.runner.run())
        yield
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running
        self.store.close()


def open_jobs(backend: Backend, options: Options, metrics: Metrics) -> Jobs | None:
    """Asynchronous work over its store; None without a folder for the recordings.

    Raises:
        RequestError: the recordings are in a bucket, and no database is named.
    """
    folder = options.jobs_folder
    if folder is None:
        return None
    url = options.jobs_url
    if url is None and "://" in folder:
        raise RequestError(f"jobs_folder={folder} is not on this machine; name the database too, by jobs_url")
    recordings = JobRecordings(f"{folder}/recordings")  # makes the folder
    store = JobStore(url or f"sqlite:///{folder}/jobs.db")
    webhooks = Webhooks(options.webhook_hosts)
    holder = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"[-80:]
    runner = JobRunner(
        backend,
        store=store,
        recordings=recordings,
        webhooks=webhooks,
        options=options,
        metrics=metrics,
        holder=holder,
    )
    return Jobs(store, recordings, webhooks, runner)


def add_to(app: FastAPI, jobs: Jobs, options: Options) -> None:
    """Add the routes."""
    store = jobs.store

    async def find(request: Request, job_id: str) -> Job:
        return _there(await asyncio.to_thread(store.get, job_id, request.state.caller.name), job_id)

    @app.post(JOBS, status_code=202, openapi_extra={"requestBody": request_body(**WEBHOOK_FIELDS)})
    async def submit_job(
        request: Request,
        response: Response,
        idempotency_key: Annotated[str | None, Header(max_length=255)] = None,
    ) -> JobObject:
        """Submit a recording. With the `Idempotency-Key` of an earlier submission that job is answered."""
        owner = request.state.caller.name
        is_repeated = bool(idempotency_key) and await asyncio.to_thread(store.knows, owner, str(idempotency_key))
        if not is_repeated:
            await _check_room(store, owner, options)
        async with read_form(request) as form:
            upload, fields, webhook = _parse(form, options)
            if webhook:
                jobs.webhooks.check(webhook["webhook_url"], webhook["webhook_secret"])
            job_id = new_id()
            num_bytes = await _save(jobs.recordings, job_id, upload)
        job = await asyncio.to_thread(
            store.submit,
            job_id,
            window_s=options.job_window_s,
            owner=owner,
            idempotency_key=idempotency_key,
            file_name=(upload.filename or "the upload").replace("\0", ""),  # which PostgreSQL does not take
            num_bytes=num_bytes,
            fields=FIELDS.dump_json(fields).decode(),
            **webhook,
        )
        if job.id != job_id:
            await asyncio.to_thread(jobs.recordings.delete, job_id)
        jobs.runner.notify()
        response.headers["Location"] = f"{JOBS}/{job.id}"
        return _object(job, options)

    @app.get(JOBS)
    async def list_jobs(
        request: Request,
        limit: Annotated[int, Query(ge=1, le=100)] = 20,
        after: Annotated[str | None, Query(description="The last id of the page before.")] = None,
        status: Annotated[Status | None, Query()] = None,
    ) -> JobList:
        """Your jobs, newest first."""
        owner = request.state.caller.name
        found = await asyncio.to_thread(store.list_jobs, owner, limit=limit + 1, after=after, status=status)
        data = [_object(job, options) for job in found[:limit]]
        first, last = (data[0].id, data[-1].id) if data else (None, None)
        return JobList(data=data, first_id=first, last_id=last, has_more=len(found) > limit)

    @app.get(JOBS + "/{job_id}")
    async def get_job(request: Request, job_id: str) -> JobObject:
        """How a job is doing."""
        return _object(await find(request, job_id), options)

    @app.get(JOBS + "/{job_id}/result", response_model=None, responses={200: answer()})
    async def get_job_result(
        request: Request,
        job_id: str,
        response_format: Annotated[str | None, Query(description="Default: as submitted.")] = None,
    ) -> Response:
        """The transcript of a completed job, in any format, as a transcription answers it."""
        job = await find(request, job_id)
        if job.status != "completed":
            message = f"The job is {job.status}; only completed jobs have a result."
            raise ApiError(409, message, code=f"job_{job.status}")
        fields = FIELDS.validate_json(job.fields)
        if response_format is not None:
            wanted = check({"response_format": response_format}, options).response_format
            fields = dataclasses.replace(fields, response_format=wanted)
        result = await asyncio.to_thread(store.result, job_id, request.state.caller.name)
        return render(TRANSCRIPT.validate_json(result or ""), fields)

    @app.post(JOBS + "/{job_id}/cancel")
    async def cancel_job(request: Request, job_id: str) -> JobObject:
        """Cancel a job. One that has ended stays as it is."""
        job = _there(await asyncio.to_thread(store.cancel, job_id, request.state.caller.name), job_id)
        await asyncio.to_thread(jobs.recordings.delete, job_id)
        jobs.runner.notify()
        return _object(job, options)

    @app.delete(JOBS + "/{job_id}")
    async def delete_job(request: Request, job_id: str) -> dict[str, Any]:
        """Forget a job that has ended, and its transcript."""
        job = await find(request, job_id)
        if not await asyncio.to_thread(store.delete, job_id, request.state.caller.name):
            raise ApiError(409, f"The job is {job.status}; cancel it first.", code=f"job_{job.status}")
        return {"id": job_id, "object": "transcription.job.deleted", "deleted": True}

    for kind in (OperationalError, PoolTimeoutError):
        app.add_exception_handler(kind, _answer_unavailable)


async def _check_room(store: JobStore, owner: str, options: Options) -> None:
    for of, most in ((owner, options.max_jobs_per_key), (None, options.max_jobs)):
        if await asyncio.to_thread(store.count_active, of) >= most:
            whose = "Yours are" if of else "There are"
            message = f"{whose} {most} jobs that wait or run, which is the limit; wait until one has ended."
            raise ApiError(429, message, code="rate_limit_exceeded", retry_after_s=RETRY_AFTER_S)


async def _save(recordings: JobRecordings, job_id: str, upload: UploadFile) -> int:
    try:
        return await asyncio.to_thread(recordings.save, job_id, upload.file)
    except OSError as error:
        await asyncio.to_thread(recordings.delete, job_id)
        message = "The recording could not be stored."
        raise ApiError(503, message, code="storage_unavailable", retry_after_s=RETRY_AFTER_S) from error


def _parse(form: FormData, options: Options) -> tuple[UploadFile, Fields, dict[str, str]]:
    """The recording, what is asked about it, and whom to call: the fields of `WEBHOOK_FIELDS`, all or none."""
    items = form.multi_items()
    webhook = {name: str(value) for name, value in items if name in WEBHOOK_FIELDS and value}
    upload, fields = parse(FormData([item for item in items if item[0] not in WEBHOOK_FIELDS]), options)
    check_model(fields.model or options.name, options)
    if fields.stream:
        message = "A job has no stream; leave `stream` out and poll, or name a `webhook_url`."
        raise ApiError(400, message, param="stream", code="unsupported_value")
    for missing in WEBHOOK_FIELDS.keys() - webhook.keys() if webhook else ():
        message = f"Missing parameter: {missing!r}; a webhook has a URL and a secret that signs it."
        raise ApiError(400, message, param=missing, code="missing_required_parameter")
    return upload, fields, webhook


def _there(job: Job | None, job_id: str) -> Job:
    if job is None:
        raise ApiError(404, f"You have no job {job_id!r}.", param="job_id", code="job_not_found")
    return job


def _object(job: Job, options: Options) -> JobObject:
    error = None if job.error is None else ErrorDetail(**json.loads(job.error)["error"])
    return JobObject(
        id=job.id,
        status=job.status,
        model=options.name,
        file_name=job.file_name,
        bytes=job.num_bytes,
        created_at=int(job.created_at),
        started_at=None if job.started_at is None else int(job.started_at),
        ended_at=None if job.ended_at is None else int(job.ended_at),
        expires_at=int(job.expires_at),
        kept_until=None if job.ended_at is None else int(job.ended_at + options.job_kept_s),
        processed_s=round(job.processed_s, 3),
        error=error,
        webhook_state=job.webhook_state,
    )


async def _answer_unavailable(request: Request, error: Exception) -> JSONResponse:
    message = "The store of jobs does not answer; try again soon."
    return ApiError(503, message, code="storage_unavailable", retry_after_s=RETRY_AFTER_S).response()
