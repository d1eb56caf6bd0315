"""The HTTP contract, without Ray: a FastAPI application over something that transcribes."""

import asyncio
import time
from collections.abc import Awaitable, Collection
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Protocol, TypeVar

from fastapi import FastAPI, File, Form, Request, UploadFile
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.exceptions import HTTPException

from caspi import audio
from caspi.inference import formats
from caspi.inference.transcription import Transcription
from serve.batching import Clip
from serve.errors import ApiError, handle
from serve.gate import TRANSCRIPTIONS, Gate
from serve.metrics import CONTENT_TYPE, Metrics
from serve.options import Options
from serve.schemas import (
    ErrorBody,
    ModelCard,
    ModelList,
    TranscriptionJson,
    TranscriptionVerboseJson,
    check_supported,
    language_code,
)

T = TypeVar("T")

# Decoding releases the GIL. A few at a time bound the memory: a recording is far larger decoded than encoded.
NUM_DECODE_THREADS = 4

# The page brings everything with it; a browser is to hold it to that.
PAGE_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline' blob:; connect-src 'self'; "
    "media-src blob:; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
MEDIA_TYPES = {"text": "text/plain", "srt": "application/x-subrip", "vtt": "text/vtt"}


class Backend(Protocol):
    """What the HTTP side needs of the model side."""

    async def transcribe(self, clip: Clip, *, deadline: float) -> Transcription:
        """The clip's transcription, or an ApiError, by `deadline` (`time.monotonic`)."""

    async def is_ready(self) -> bool:
        """Whether a model would answer now."""


def http_app(
    backend: Backend, *, options: Options, key_hashes: Collection[str], page: str, metrics: Metrics
) -> FastAPI:
    """The application. State lives in its arguments, so a test calls it like a deployment does."""
    app = FastAPI(
        title="Caspi",
        summary="Speech to text by OpenAI's transcription contract.",
        responses={code: {"model": ErrorBody} for code in (400, 401, 404, 413, 415, 429, 500, 503, 504)},
    )
    app.add_middleware(Gate, options=options, key_hashes=key_hashes, metrics=metrics)
    for kind in (HTTPException, RequestValidationError, Exception):
        app.add_exception_handler(kind, handle)
    _add_transcriptions(app, backend, options, metrics)
    _add_models(app, options)
    _add_operations(app, backend, page, metrics)
    return app


def _add_transcriptions(app: FastAPI, backend: Backend, options: Options, metrics: Metrics) -> None:
    decoders = ThreadPoolExecutor(NUM_DECODE_THREADS, thread_name_prefix="decode")

    @app.post(TRANSCRIPTIONS, responses={200: {"model": TranscriptionVerboseJson | TranscriptionJson}})
    async def transcribe(
        request: Request,
        file: Annotated[UploadFile, File(description="The recording.")],
        model: Annotated[str | None, Form(description="An id of /v1/models. Default: the one served.")] = None,
        language: Annotated[str | None, Form(description="`he` or `Hebrew`. Default: the model says.")] = None,
        prompt: Annotated[str, Form(description="Names and terms that are likely to occur.")] = "",
        response_format: Annotated[str, Form(description="json, text, srt, verbose_json or vtt.")] = "json",
        temperature: Annotated[float, Form(description="Accepted; decoding is greedy.")] = 0.0,
        stream: Annotated[bool, Form(description="Not supported yet.")] = False,
        granularities: Annotated[list[str] | None, Form(alias="timestamp_granularities[]")] = None,
        include: Annotated[list[str] | None, Form(alias="include[]")] = None,
    ) -> Response:
        """Transcribe one recording."""
        check_model(model or options.name, options)
        check_supported(
            response_format=response_format,
            temperature=temperature,
            prompt=prompt,
            stream=stream,
            granularities=granularities or [],
            include=include or [],
        )
        code = language_code(language)
        deadline: float = request.state.deadline
        recording = await _decode(decoders, file, options, deadline)
        clip = Clip(recording.samples, recording.duration_s, code, prompt)
        transcription = await backend.transcribe(clip, deadline=deadline)
        metrics.count_audio(recording.duration_s)
        return _answer(transcription, response_format)


def _add_models(app: FastAPI, options: Options) -> None:
    card = ModelCard(id=options.name, created=int(time.time()))

    @app.get("/v1/models")
    async def list_models() -> ModelList:
        """The models that can be asked for: one."""
        return ModelList(data=[card])

    @app.get("/v1/models/{model_id:path}")
    async def get_model(model_id: str) -> ModelCard:
        """One model."""
        check_model(model_id, options)
        return card


def _add_operations(app: FastAPI, backend: Backend, page: str, metrics: Metrics) -> None:
    @app.get("/", include_in_schema=False)
    async def show_page() -> HTMLResponse:
        return HTMLResponse(page, headers={"Content-Security-Policy": PAGE_POLICY})

    @app.get("/healthz")
    async def health() -> PlainTextResponse:
        """200 while this process answers at all."""
        return PlainTextResponse("ok\n")

    @app.get("/readyz")
    async def readiness() -> PlainTextResponse:
        """200 while a model would answer, 503 otherwise."""
        if await backend.is_ready():
            return PlainTextResponse("ready\n")
        raise ApiError(503, "The model is not answering (yet).", code="not_ready", retry_after_s=2)

    @app.get("/metrics")
    async def show_metrics() -> Response:
        """Counters in Prometheus' text format."""
        return Response(metrics.render(), media_type=CONTENT_TYPE)


def check_model(model_id: str, options: Options) -> None:
    """Raises an ApiError, 404, unless it is the model served here."""
    if model_id != options.name:
        message = f"The model {model_id!r} does not exist; this server has {options.name!r}."
        raise ApiError(404, message, param="model", code="model_not_found")


async def _decode(decoders: ThreadPoolExecutor, file: UploadFile, options: Options, deadline: float) -> audio.Audio:
    encoded = await file.read()

    def decode() -> audio.Audio:
        return audio.decode(encoded, source=file.filename or "the upload", max_duration_s=options.max_audio_s)

    return await by_deadline(asyncio.get_running_loop().run_in_executor(decoders, decode), deadline)


async def by_deadline(work: Awaitable[T], deadline: float) -> T:
    """The work's result, or an ApiError, 504, at `deadline`."""
    try:
        async with asyncio.timeout(max(0, deadline - time.monotonic())):
            return await work
    except TimeoutError:
        raise ApiError(504, "No answer within the time that a request may take.", code="deadline_exceeded") from None


def _answer(transcription: Transcription, response_format: str) -> Response:
    match response_format:
        case "json":
            return JSONResponse(formats.as_json(transcription))
        case "verbose_json":
            return JSONResponse(formats.as_verbose_json(transcription))
    text = formats.render(transcription, response_format)
    return Response(text, media_type=f"{MEDIA_TYPES[response_format]}; charset=utf-8")
