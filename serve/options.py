"""What the endpoint can be told: by `config.yaml`, `serve run serve.app:build key=value` or `caspi serve`."""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from caspi.errors import RequestError


class Options(BaseModel):
    """Strict, because a misspelt limit that is silently ignored is found by the first crowd."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str
    """A folder, `models:/NAME@alias`, `runs:/...`, or a Hub id."""

    name: str = "caspi"
    """What clients call the model: `model="caspi"`."""

    # --- the model deployment

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

    batch_wait_s: float = Field(0.02, ge=0)
    """How long a clip waits for company, so that clips which come together start together."""

    # --- the ingress

    ingress_replicas: int = Field(1, ge=1)
    """Processes that answer HTTP and decode audio."""

    request_timeout_s: float = Field(120.0, gt=0)
    """Deadline of a request: upload, decoding, queueing and retries included."""

    max_in_flight: int = Field(64, ge=1)
    """Transcriptions that one ingress process works on at once. The next is answered 429 before its body is read."""

    retry_after_s: int = Field(2, ge=1)
    """What a 429 advises to wait."""

    max_upload_mb: int = Field(25, ge=1)
    """Larger uploads are answered 413."""

    max_audio_s: float = Field(1200.0, gt=0)
    """Longer recordings are answered 400. Twenty minutes is what Qwen3-ASR takes in one piece."""

    worker_env: dict[str, str] = Field(default_factory=dict)
    """Environment variables of the replicas."""

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
