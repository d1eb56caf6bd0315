"""What comes in and what goes out. The answers here draw the OpenAPI page; `caspi.inference.formats` writes them."""

from dataclasses import dataclass, field
from typing import Literal

from pydantic import BaseModel

from caspi import text
from caspi.errors import RequestError
from caspi.inference.long_form import Cutting
from serve.errors import ApiError

RESPONSE_FORMATS = ("json", "text", "srt", "verbose_json", "vtt")
MAX_PROMPT_CHARS = 4000


@dataclass(frozen=True, slots=True)
class Fields:
    """What a request asks for, checked."""

    language: str | None = None
    """ISO 639 code. None: the model says."""

    prompt: str = ""
    response_format: str = "json"
    stream: bool = False
    log_probs: bool = False
    cutting: Cutting = field(default_factory=Cutting)


class Usage(BaseModel):
    """What a request is measured by."""

    type: Literal["duration"] = "duration"
    seconds: float


class TranscriptionJson(BaseModel):
    """`response_format=json`."""

    text: str
    usage: Usage


class SegmentJson(BaseModel):
    """A span of the recording. Null: this model does not tell."""

    id: int
    seek: int
    start: float
    end: float
    text: str
    tokens: list[int]
    temperature: float
    avg_logprob: float | None
    compression_ratio: float | None
    no_speech_prob: float | None


class TranscriptionVerboseJson(BaseModel):
    """`response_format=verbose_json`."""

    task: Literal["transcribe"]
    language: str
    duration: float
    text: str
    segments: list[SegmentJson]
    usage: Usage


class ModelCard(BaseModel):
    """A model that can be asked for by its id."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "caspi"


class ModelList(BaseModel):
    """All of them."""

    object: Literal["list"] = "list"
    data: list[ModelCard]


class ErrorDetail(BaseModel):
    """What went wrong, for people, and by which parameter, for programs."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(BaseModel):
    """Every answer that is not 2xx."""

    error: ErrorDetail


class JobObject(BaseModel):
    """Asynchronous work. Times are seconds since 1970."""

    id: str
    object: Literal["transcription.job"] = "transcription.job"
    status: str
    model: str
    file_name: str
    bytes: int
    created_at: int
    started_at: int | None
    ended_at: int | None

    expires_at: int
    """When it is given up, if it has not ended."""

    kept_until: int | None
    """Until when the result can be fetched."""

    processed_s: float
    """Seconds of the recording that are done; all of them once it is completed."""

    error: ErrorDetail | None
    webhook_state: str | None


class JobList(BaseModel):
    """A page of jobs, newest first."""

    object: Literal["list"] = "list"
    data: list[JobObject]
    first_id: str | None
    last_id: str | None
    has_more: bool


def language_code(language: str | None) -> str | None:
    """The ISO 639 code of `he`, `Hebrew` or `hebrew`. None and the empty string leave the language to the model.

    Raises:
        ApiError: 400, neither a code nor a name that we know.
    """
    if not language:
        return None
    try:
        return text.language_code(language)
    except RequestError as error:
        message = f"{error}. Leave it out to let the model say."
        raise ApiError(400, message, param="language", code="invalid_language") from error


def check_supported(
    *,
    response_format: str,
    temperature: float,
    prompt: str,
    stream: bool,
    granularities: list[str],
    include: list[str],
) -> None:
    """Refuse what this server cannot do, rather than answer something else.

    Raises:
        ApiError: 400, naming the parameter.
    """
    if response_format not in RESPONSE_FORMATS:
        message = f"response_format {response_format!r} is not supported; supported: {', '.join(RESPONSE_FORMATS)}."
        raise ApiError(400, message, param="response_format", code="unsupported_value")
    if not 0 <= temperature <= 1:
        message = f"temperature is {temperature}; it must be between 0 and 1."
        raise ApiError(400, message, param="temperature", code="invalid_value")
    if len(prompt) > MAX_PROMPT_CHARS:
        message = f"The prompt has {len(prompt)} characters; at most {MAX_PROMPT_CHARS} fit."
        raise ApiError(400, message, param="prompt", code="invalid_value")
    if stream:
        message = "Streaming answers are not supported yet; leave `stream` out."
        raise ApiError(400, message, param="stream", code="unsupported_value")
    if set(granularities) - {"segment"}:
        message = "Only timestamps of segments are supported; leave `timestamp_granularities[]` out, or send `segment`."
        raise ApiError(400, message, param="timestamp_granularities", code="unsupported_value")
    if include:
        raise ApiError(400, "`include[]` is not supported yet.", param="include", code="unsupported_value")
