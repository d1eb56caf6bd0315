"""What the endpoint can be told: by `config.yaml`, `serve run serve.app:build key=value` or `caspi serve`."""

from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from caspi.errors import RequestError


class Canary(BaseModel):
    """A second model that gets a share of the clips, with metrics of its own. What it fails, the first one answers."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str
    """As `model` of the endpoint: `models:/NAME@candidate`."""

    share: float = Field(0.05, gt=0, lt=1)
    """Of the requests, drawn by their ids: the same id always goes the same way."""

    replicas: int = Field(1, ge=1)
    """Copies of it."""


class Autoscaling(BaseModel):
    """How many copies of the model, by the audio that waits. In place of `replicas`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    min_replicas: int = Field(1, ge=0)
    """0 gives the machine back when nobody asks; the next request then waits until a model is loaded."""

    max_replicas: int = Field(ge=1)

    target_backlog_s: float | None = Field(None, gt=0)
    """Audio waiting and running on each copy above which another one is started. Default: twice `max_batch_s`, a batch
    in the engine and one behind it."""

    calm: float = Field(0.5, gt=0, le=1)
    """A copy goes when the others would then have less than this part of their target. The gap keeps it still."""

    upscale_delay_s: float = Field(10.0, ge=0)
    """How long the backlog must be large."""

    downscale_delay_s: float = Field(300.0, ge=0)
    """How long it must be small."""

    look_back_s: float = Field(10.0, gt=0)
    """The backlog is the mean over this time."""

    report_every_s: float = Field(2.0, gt=0)
    """How often replicas report it."""


class Options(BaseModel):
    """Strict, because a misspelt limit that is silently ignored is found by the first crowd."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str
    """A folder, `models:/NAME@alias`, `runs:/...`, or a Hub id."""

    name: str = "caspi"
    """What clients call the model: `model="caspi"`."""

    # --- the model deployment

    engine: Literal["transformers", "vllm"] = "transformers"
    """What decodes. `vllm` wants an environment of its own, named by CASPI_VLLM_PYTHON; docs/guides/vllm.md."""

    replicas: int = Field(1, ge=1)
    """Copies of the model."""

    num_cpus: float = Field(1, ge=0)
    """CPUs that Ray sets aside for each copy; torch uses that many threads."""

    num_gpus: float = Field(0, ge=0)
    """GPUs for each copy."""

    max_batch_s: float = Field(120.0, gt=0)
    """Audio per forward pass, padding included. A longer recording goes alone."""

    max_tokens_per_s: float = Field(12.0, gt=0)
    """Text tokens generated per second of audio before an answer is cut."""

    batch_wait_s: float = Field(0.02, ge=0)
    """How long a request waits for company when the model is idle. Behind a busy model it has to wait anyway."""

    # --- operating it

    follow_s: float | None = Field(None, gt=0)
    """How often each replica looks up what the alias of `model` means, to exchange the model when that is another
    version. None: the version of the deployment stays. Needs `models:/NAME@alias` and `MLFLOW_TRACKING_URI`."""

    canary: Canary | None = None
    """A second model for a share of the requests."""

    autoscaling: Autoscaling | None = None
    """Copies by the audio that waits, in place of `replicas`."""

    max_surge_percent: int = Field(0, ge=0, le=100)
    """Copies of the model beyond `replicas` while a deployment with other arguments replaces them. With 100 the new
    ones are up before the old ones go, on as many GPUs again; with 0 they are replaced one by one, and a single copy is
    away while its successor starts: requests wait. Another model alone replaces none: see `user_config`."""

    # --- the ingress

    ingress_replicas: int = Field(1, ge=1)
    """Processes that answer HTTP and decode audio."""

    request_timeout_s: float = Field(120.0, gt=0)
    """Deadline of a request: upload, decoding, queueing and retries included. `min_rtfx` extends it for long ones."""

    max_in_flight: int = Field(64, ge=1)
    """Transcriptions that one ingress process works on at once. The next is answered 429 before its body is read."""

    retry_after_s: int = Field(2, ge=1)
    """What a 429 advises to wait."""

    max_upload_mb: int = Field(25, ge=1)
    """Larger uploads are answered 413."""

    # --- long form

    max_audio_s: float = Field(10800.0, gt=0)
    """Longer recordings are answered 400."""

    max_piece_s: float = Field(30.0, ge=1)
    """Audio that goes to the model in one piece; longer recordings are cut at pauses."""

    max_pieces_in_flight: int = Field(16, ge=1)
    """Pieces of one recording that are with the model at once. More keep more replicas busy with one recording, and an
    ingress process holds up to 2 MB for each."""

    min_rtfx: float = Field(5.0, gt=0)
    """What a recording's length adds to its deadline: `request_timeout_s` and its duration divided by this."""

    # --- both

    worker_env: dict[str, str] = Field(default_factory=dict)
    """Environment variables of the replicas."""

    @model_validator(mode="after")
    def _aliases_can_be_followed(self) -> Self:
        if self.follow_s is not None and "@" not in self.model:
            raise ValueError(f"follow_s needs models:/NAME@alias, and model is {self.model}; leave follow_s out")
        return self

    @property
    def max_request_s(self) -> float:
        """How long the longest recording may take. What stands in front of the ingress must wait longer than that."""
        return self.request_timeout_s + self.max_audio_s / self.min_rtfx

    @property
    def max_upload_bytes(self) -> int:
        return self.max_upload_mb * 2**20


def parse(args: Mapping[str, Any]) -> Options:
    """Options from loose arguments; numbers may come as text, since the command line knows no other.

    Raises:
        RequestError: a key is unknown or missing, or a value is wrong.
    """
    try:
        return Options.model_validate(dict(args))
    except ValidationError as invalid:
        problems = "; ".join(f"{'.'.join(map(str, error['loc']))}: {error['msg']}" for error in invalid.errors())
        known = ", ".join(Options.model_fields)
        raise RequestError(f"the endpoint's arguments are wrong: {problems}. Known arguments: {known}") from None
