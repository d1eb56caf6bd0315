"""What comes in and what goes out: they check requests and draw the OpenAPI page.

The answers here are written by `caspi.inference.formats`.
"""

from dataclasses import dataclass, field
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from caspi.inference.cutting import Cutting

MAX_PROMPT_CHARS = 4000

FORMATS = ("json", "text", "srt", "verbose_json", "vtt")
STREAMED_FORMATS = ("json", "verbose_json")


@dataclass(frozen=True, slots=True)
class Fields:
    """What a request asks for, checked by `serve.form`."""

    model: str | None = None
    """None: the one that is served."""

    language: str | None = None
    """ISO 639 code. None: the model says."""

    prompt: str = ""
    response_format: str = "json"
    stream: bool = False
    log_probs: bool = False
    cutting: Cutting = field(default_factory=Cutting)


class ServerVad(BaseModel):
    """How speech is found, by hand. What is left out is as without this object."""

    model_config = ConfigDict(extra="forbid")

    type: Literal["server_vad"]
    threshold: Annotated[float | None, Field(gt=0, lt=1, description="How sure speech must be. Default: 0.3.")] = None
    prefix_padding_ms: Annotated[
        int | None, Field(ge=0, le=2000, description="Audio kept before speech. Default: 200.")
    ] = None
    silence_duration_ms: Annotated[
        int | None, Field(ge=100, le=10_000, description="A pause that ends a piece. Default: 600.")
    ] = None


class TranscriptionForm(BaseModel):
    """The fields of `POST /v1/audio/transcriptions` beside the file. Lists are sent as `name[]`."""

    model_config = ConfigDict(extra="forbid")

    model: Annotated[str | None, Field(description="An id of /v1/models. Default: the one served.")] = None
    language: Annotated[str | None, Field(description="`he` or `Hebrew`. Default: the model says.")] = None
    languages: Annotated[list[str], Field(max_length=1, description="The same as `language`, as a list of one.")] = []
    prompt: Annotated[str, Field(max_length=MAX_PROMPT_CHARS, description="Names, terms, or what was said before.")] = (
        ""
    )
    keywords: Annotated[
        list[str], Field(max_length=200, description="Words that are likely to occur; they are added to the prompt.")
    ] = []
    response_format: Annotated[str, Field(description=f"One of {', '.join(FORMATS)}.")] = "json"
    temperature: Annotated[float, Field(ge=0, le=1, description="Without effect: decoding is greedy.")] = 0
    timestamp_granularities: Annotated[
        list[Literal["segment", "word"]], Field(description="`segment`, with verbose_json.")
    ] = []
    stream: Annotated[
        bool | None, Field(description="Server-sent events while the recording is transcribed; json or verbose_json.")
    ] = None
    chunking_strategy: Annotated[
        ServerVad | None, Field(description="`auto`, which is what happens anyway, or an object.")
    ] = None
    include: Annotated[list[Literal["logprobs"]], Field(description="`logprobs`, with json.")] = []
    known_speaker_names: Annotated[list[str], Field(description="Refused: speakers are not told apart.")] = []
    known_speaker_references: Annotated[list[str], Field(description="Refused: speakers are not told apart.")] = []


class DurationUsage(BaseModel):
    """What a request is measured by."""

    type: Literal["duration"]
    seconds: float


class LanguageJson(BaseModel):
    """A language that was heard."""

    code: str


class LogProbJson(BaseModel):
    """A token of the text, and the natural logarithm of its probability."""

    token: str
    bytes: list[int]
    logprob: float


class TranscriptionJson(BaseModel):
    """`response_format=json`. `covered_seconds`, which is not OpenAI's, equals the recording's length, always."""

    text: str
    languages: list[LanguageJson]
    usage: DurationUsage
    covered_seconds: float
    logprobs: list[LogProbJson] | None = None


class SegmentJson(BaseModel):
    """A span of the recording. Null: this model does not tell.

    `finish` is not OpenAI's. Anything but `stop` says that the model went astray, and that its text was cut off.
    """

    id: int
    seek: int
    start: float
    end: float
    text: str
    tokens: list[int]
    temperature: float
    avg_logprob: float | None
    compression_ratio: float
    no_speech_prob: float | None
    finish: Literal["stop", "length", "repetition"]


class TranscriptionVerboseJson(BaseModel):
    """`response_format=verbose_json`. `covered_seconds` and `speech_seconds` are not OpenAI's."""

    task: Literal["transcribe"]
    language: str
    languages: list[LanguageJson]
    duration: float
    text: str
    segments: list[SegmentJson]
    usage: DurationUsage
    covered_seconds: float
    speech_seconds: float


class ServedVersion(BaseModel):
    """Which weights answer."""

    name: str
    """Of the registered model, the folder or the hub's model."""

    version: str
    sha: str
    """Digest of the model's files."""

    problem: str | None = None
    """Why the model that was asked for last is not this one."""


class ModelCard(BaseModel):
    """A model that can be asked for by its id. All beyond OpenAI's four fields is null while no model answers."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "caspi"
    serving: ServedVersion | None = None
    canary: ServedVersion | None = None
    """What a share of the requests gets instead."""


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
