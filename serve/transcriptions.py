"""`POST /v1/audio/transcriptions`."""

from typing import Annotated

from fastapi import FastAPI, File, Form, Request, UploadFile
from fastapi.responses import JSONResponse, Response

from caspi.inference import formats
from caspi.inference.long_form import Transcript
from serve.backend import Backend
from serve.gate import TRANSCRIPTIONS
from serve.metrics import Metrics
from serve.models import check_model
from serve.options import Options
from serve.recordings import transcribe_recording
from serve.schemas import Fields, TranscriptionJson, TranscriptionVerboseJson, check_supported, language_code

MEDIA_TYPES = {"text": "text/plain", "srt": "application/x-subrip", "vtt": "text/vtt"}


def add_to(app: FastAPI, backend: Backend, options: Options, metrics: Metrics) -> None:
    """Add the route."""

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
        fields = Fields(language=code, prompt=prompt, response_format=response_format)
        name = file.filename or "the upload"
        deadline: float = request.state.deadline
        transcript = await transcribe_recording(
            backend, await file.read(), fields, name=name, options=options, deadline=deadline
        )
        metrics.count_audio(transcript.duration_s)
        request.state.caller.charge_audio(transcript.duration_s)
        return render(transcript, fields)


def render(transcript: Transcript, fields: Fields) -> Response:
    """The answer in the format that was asked for."""
    match fields.response_format:
        case "json":
            return JSONResponse(formats.as_json(transcript))
        case "verbose_json":
            return JSONResponse(formats.as_verbose_json(transcript))
    text = formats.render(transcript, fields.response_format)
    return Response(text, media_type=f"{MEDIA_TYPES[fields.response_format]}; charset=utf-8")
