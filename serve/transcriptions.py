"""`POST /v1/audio/transcriptions`."""

from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from starlette.datastructures import UploadFile

from caspi.inference import formats
from caspi.inference.cutting import Piece
from caspi.inference.long_form import Transcript
from serve.backend import Backend
from serve.body import read_form
from serve.connection import while_connected
from serve.form import parse
from serve.gate import TRANSCRIPTIONS
from serve.metrics import Metrics
from serve.models import check_model
from serve.options import Options
from serve.recordings import OnSegment, transcribe_recording
from serve.schemas import Fields, ServerVad, TranscriptionForm, TranscriptionJson, TranscriptionVerboseJson
from serve.streaming import stream

MEDIA_TYPES = {"text": "text/plain", "srt": "application/x-subrip", "vtt": "text/vtt"}


def add_to(app: FastAPI, backend: Backend, options: Options, metrics: Metrics) -> None:
    """Add the route."""

    @app.post(
        TRANSCRIPTIONS,
        response_model=None,
        responses={200: answer("text/event-stream")},
        openapi_extra={"requestBody": request_body()},
    )
    async def transcribe(request: Request) -> Response:
        """Transcribe one recording."""
        async with read_form(request) as form:
            upload, fields = parse(form, options)
            check_model(fields.model or options.name, options)

            def count(piece: Piece) -> None:
                """As it is answered: a recording may be bad at its end only, or its client not wait for that."""
                metrics.count_audio(piece.duration_s)
                request.state.caller.charge_audio(piece.duration_s)

            async def work(on_segment: OnSegment | None = None) -> Transcript:
                return await transcribe_recording(
                    backend,
                    await _source(upload),
                    fields,
                    name=upload.filename or "the upload",
                    options=options,
                    deadline=request.state.deadline,
                    on_piece=count,
                    on_segment=on_segment,
                )

            if fields.stream:
                return await stream(request, work, fields)
            return render(await while_connected(request, work()), fields)


def render(transcript: Transcript, fields: Fields) -> Response:
    """The answer in the format that was asked for."""
    match fields.response_format:
        case "json":
            return JSONResponse(formats.as_json(transcript))
        case "verbose_json":
            return JSONResponse(formats.as_verbose_json(transcript))
    text = formats.render(transcript, fields.response_format)
    return Response(text, media_type=f"{MEDIA_TYPES[fields.response_format]}; charset=utf-8")


async def _source(upload: UploadFile) -> Path | bytes:
    """The upload where it lies: in memory, or as the file without a name that a large one became."""
    if upload._in_memory:
        return await upload.read()
    return Path(f"/proc/self/fd/{upload.file.fileno()}")


def answer(*more: str) -> dict[str, Any]:
    """What `render` makes, for the OpenAPI page, and content of `more` types."""
    content: dict[str, Any] = {media_type: {} for media_type in (*MEDIA_TYPES.values(), *more)}
    return {"model": TranscriptionVerboseJson | TranscriptionJson, "content": content}


def request_body(**more: Any) -> dict[str, Any]:
    """The form and `more` fields, for the OpenAPI page. Lists are named as they are sent."""
    schema = TranscriptionForm.model_json_schema()
    fields: dict[str, Any] = {"file": {"type": "string", "format": "binary", "description": "The recording."}}
    for name, described in schema["properties"].items():
        fields[f"{name}[]" if described.get("type") == "array" else name] = described
    strategy = {"anyOf": [{"type": "string", "enum": ["auto"]}, ServerVad.model_json_schema()]}
    fields["chunking_strategy"] = {**strategy, "description": fields["chunking_strategy"]["description"]}
    form = {"type": "object", "required": ["file"], "properties": fields | more, "additionalProperties": False}
    return {"required": True, "content": {"multipart/form-data": {"schema": form}}}
