"""What the endpoint can be told: by `config.yaml`, `serve run serve.app:build key=value` or `caspi serve`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from caspi.errors import RequestError, describe_invalid
from caspi.recipe.sections import Precision
from caspi.settings import Settings


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
    """Audio that is decoded together, padding included; it decides the size of the cache. A longer clip goes alone."""

    max_tokens_per_s: float = Field(12.0, gt=0)
    """Text tokens generated per second of audio before an answer is cut."""

    precision: Precision = "auto"
    """Of the weights and of what is multiplied. `auto`: bf16 on a GPU, fp32 on a CPU."""

    batch_wait_s: float = Field(0.02, ge=0)
    """How long a clip waits for company, so that clips which come together start together."""

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

    max_window_s: float = Field(480.0, gt=0)
    """Seconds of one recording that are cut and not yet joined: with the model, or done before what comes first. More
    keep more replicas busy with one recording; an ingress process holds 64 kB for each."""

    min_rtfx: float = Field(5.0, gt=0)
    """What a recording's length adds to its deadline: `request_timeout_s` and its duration divided by this."""

    # --- who may come in

    api_keys_file: Path | None = None
    """Keys and their limits, as `caspi keys add` writes them; read again when it changes, with no restart. On every
    node under this path. Default: `CASPI_API_KEYS_FILE`."""

    allow_anonymous: bool = False
    """Serve without keys although the address is open to the network, because something in front asks for them."""

    trusted_hosts: tuple[str, ...] = ()
    """Host names, besides addresses and names without a dot, by which an endpoint without keys may be called."""

    cors_origins: tuple[str, ...] = ()
    """Origins, such as `https://app.example.org`, whose web pages may call the endpoint. Default: only our own page."""

    idle_timeout_s: float = Field(20.0, gt=0)
    """Longest pause within an upload, and longest time that a client may take to accept a part of the answer."""

    # --- asynchronous work

    jobs_url: str | None = None
    """Where jobs are kept: `postgresql+psycopg://USER:PASSWORD@HOST/NAME`, or `sqlite:////PATH/jobs.db` for one node.
    Default: `CASPI_JOBS_URL`, else SQLite in `jobs_folder`."""

    jobs_folder: str | None = None
    """Where recordings wait: a folder that every ingress process sees, or a URL. Default: `CASPI_HOME/jobs`."""

    max_job_upload_mb: int = Field(1024, ge=1)
    """Larger recordings for jobs are answered 413. Three hours of WAV at 48 kHz in stereo are 2 GB, of MP3 170 MB."""

    max_job_audio_s: float = Field(10800.0, gt=0)
    """Longer recordings make the job fail."""

    job_upload_timeout_s: float = Field(900.0, gt=0)
    """Deadline of an upload for a job."""

    max_job_uploads: int = Field(4, ge=1)
    """Recordings for jobs that one ingress process receives at once; each may need `max_job_upload_mb` of /tmp."""

    jobs_at_once: int = Field(1, ge=1)
    """Jobs that one ingress process works on at once. Few, because requests that somebody waits for come first."""

    max_jobs: int = Field(1000, ge=1)
    """Jobs that may wait or run. The next is answered 429."""

    max_jobs_per_key: int = Field(100, ge=1)
    """The same for the jobs of one caller."""

    job_window_s: float = Field(86400.0, gt=0)
    """A job that is not done so long after its submission expires."""

    job_kept_s: float = Field(604800.0, gt=0)
    """How long a job and its result can be fetched after it ended."""

    job_lease_s: float = Field(30.0, gt=0)
    """A process that was not heard of for so long is taken for dead, and its job is taken again."""

    webhook_hosts: tuple[str, ...] = ()
    """Host names, addresses and networks (`10.0.0.0/8`) that webhooks may reach although they are not public or not
    https."""

    # --- everything

    worker_env: dict[str, str] = Field(default_factory=dict)
    """Environment variables of the replicas."""

    @model_validator(mode="after")
    def _aliases_can_be_followed(self) -> Self:
        if self.follow_s is not None and "@" not in self.model:
            raise ValueError(f"follow_s needs models:/NAME@alias, and model is {self.model}; leave follow_s out")
        return self

    def with_defaults(self, environment: Settings) -> "Options":
        """With what this process' environment says, where nothing else was said: replicas may have another one."""
        folder = self.jobs_folder or str(environment.home / "jobs")
        return self.model_copy(
            update={
                "api_keys_file": self.api_keys_file or environment.api_keys_file,
                "jobs_folder": folder,
                "jobs_url": self.jobs_url or environment.jobs_url,
            }
        )

    @property
    def max_request_s(self) -> float:
        """How long the longest recording may take. What stands in front of the ingress must wait longer than that."""
        return self.request_timeout_s + self.max_audio_s / self.min_rtfx


def parse(args: Mapping[str, Any]) -> Options:
    """Options from loose arguments; numbers may come as text, since the command line knows no other.

    Raises:
        RequestError: a key is unknown or missing, or a value is wrong.
    """
    try:
        return Options.model_validate(dict(args))
    except ValidationError as invalid:
        known = ", ".join(Options.model_fields)
        problems = describe_invalid(invalid)
        raise RequestError(f"the endpoint's arguments are wrong: {problems}. Known arguments: {known}") from None
