"""`POST /v1/audio/transcriptions`."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated

from fastapi import FastAPI, File, Form, Request, UploadFile
from fastapi.responses import JSONResponse, Response

from caspi import audio
from caspi.inference import formats
from caspi.inference.transcription import Transcription
from serve.backend import Backend
from serve.batching import Clip
from serve.deadline import by_deadline
from serve.gate import TRANSCRIPTIONS
from serve.metrics import Metrics
from serve.models import check_model
from serve.options import Options
from serve.schemas import TranscriptionJson, TranscriptionVerboseJson, check_supported, language_code

# Decoding releases the GIL. A few at a time bound the memory: a recording is far larger decoded than encoded.
NUM_DECODE_THREADS = 4

MEDIA_TYPES = {"text": "text/plain", "srt": "application/x-subrip", "vtt": "text/vtt"}


def add_to(app: FastAPI, backend: Backend, options: Options, metrics: Metrics) -> None:
    """Add the route."""
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


async def _decode(decoders: ThreadPoolExecutor, file: UploadFile, options: Options, deadline: float) -> audio.Audio:
    encoded = await file.read()

    def decode() -> audio.Audio:
        return audio.decode(encoded, source=file.filename or "the upload", max_duration_s=options.max_audio_s)

    return await by_deadline(asyncio.get_running_loop().run_in_executor(decoders, decode), deadline)


def _answer(transcription: Transcription, response_format: str) -> Response:
    match response_format:
        case "json":
            return JSONResponse(formats.as_json(transcription))
        case "verbose_json":
            return JSONResponse(formats.as_verbose_json(transcription))
    text = formats.render(transcription, response_format)
    return Response(text, media_type=f"{MEDIA_TYPES[response_format]}; charset=utf-8")
