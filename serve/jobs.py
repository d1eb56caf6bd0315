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

from fastapi import Depends, FastAPI, File, Form, Header, Query, Request, UploadFile
from fastapi.responses import JSONResponse, Response
from sqlalchemy.exc import OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from caspi.errors import RequestError
from serve.backend import Backend
from serve.errors import ApiError
from serve.gate import JOBS
from serve.job_recordings import JobRecordings
from serve.job_runner import FIELDS, TRANSCRIPT, JobRunner
from serve.job_store import Job, JobStore, new_id
from serve.models import check_model
from serve.options import Options
from serve.schemas import ErrorDetail, Fields, JobList, JobObject, check_supported, language_code
from serve.transcriptions import render
from serve.webhooks import Webhooks

Status = Literal["queued", "in_progress", "completed", "failed", "cancelled", "expired"]

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


def open_jobs(backend: Backend, options: Options) -> Jobs | None:
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
    runner = JobRunner(backend, store=store, recordings=recordings, webhooks=webhooks, options=options, holder=holder)
    return Jobs(store, recordings, webhooks, runner)


def add_to(app: FastAPI, jobs: Jobs, options: Options) -> None:
    """Add the routes."""
    store = jobs.store

    def read_fields(
        model: Annotated[str | None, Form(description="An id of /v1/models. Default: the one served.")] = None,
        language: Annotated[str | None, Form(description="`he` or `Hebrew`. Default: the model says.")] = None,
        prompt: Annotated[str, Form(description="Names and terms that are likely to occur.")] = "",
        response_format: Annotated[str, Form(description="Of the result, unless asked for another one.")] = "json",
    ) -> Fields:
        check_model(model or options.name, options)
        _check_format(response_format, prompt)
        return Fields(language=language_code(language), prompt=prompt, response_format=response_format)

    async def find(request: Request, job_id: str) -> Job:
        return _there(await asyncio.to_thread(store.get, job_id, request.state.caller.name), job_id)

    @app.post(JOBS, status_code=202)
    async def submit_job(
        request: Request,
        response: Response,
        file: Annotated[UploadFile, File(description="The recording.")],
        fields: Annotated[Fields, Depends(read_fields)],
        webhook_url: Annotated[str | None, Form(description="Called when the job has ended.")] = None,
        webhook_secret: Annotated[str, Form(description="Signs the call: `whsec_` and base64.")] = "",
        idempotency_key: Annotated[str | None, Header(max_length=255)] = None,
    ) -> JobObject:
        """Submit a recording. With the `Idempotency-Key` of an earlier submission that job is answered."""
        owner = request.state.caller.name
        if webhook_url is not None:
            jobs.webhooks.check(webhook_url, webhook_secret)
        await _check_room(store, owner, options)
        job_id = new_id()
        num_bytes = await _save(jobs.recordings, job_id, file)
        job = await asyncio.to_thread(
            store.submit,
            job_id,
            window_s=options.job_window_s,
            owner=owner,
            idempotency_key=idempotency_key,
            file_name=file.filename or "the upload",
            num_bytes=num_bytes,
            fields=FIELDS.dump_json(fields).decode(),
            webhook_url=webhook_url,
            webhook_secret=webhook_secret or None,
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

    @app.get(JOBS + "/{job_id}/result")
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
            _check_format(response_format, fields.prompt)
            fields = dataclasses.replace(fields, response_format=response_format)
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


async def _save(recordings: JobRecordings, job_id: str, file: UploadFile) -> int:
    try:
        return await asyncio.to_thread(recordings.save, job_id, file.file)
    except OSError as error:
        await asyncio.to_thread(recordings.delete, job_id)
        message = "The recording could not be stored."
        raise ApiError(503, message, code="storage_unavailable", retry_after_s=RETRY_AFTER_S) from error


def _check_format(response_format: str, prompt: str) -> None:
    check_supported(
        response_format=response_format, temperature=0, prompt=prompt, stream=False, granularities=[], include=[]
    )


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
