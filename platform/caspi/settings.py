"""Every environment variable that Caspi reads, each with a sentence. What a *run* depends on is in its recipe.

Ray's own `RAY_AUTH_TOKEN` and `RAY_AUTH_TOKEN_PATH` are read by `caspi.submit`, as Ray's tools read them.
"""

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from caspi.errors import RequestError


@dataclass(frozen=True, slots=True)
class Settings:
    """The environment as Caspi sees it."""

    home: Path
    """`CASPI_HOME`: where the embedded MLflow and downloaded models live. Default: `runs` in the current folder."""

    tracking_uri: str | None
    """`MLFLOW_TRACKING_URI`: an MLflow server. Without it each command starts a local one on SQLite under `home`."""

    ray_address: str | None
    """`RAY_ADDRESS`: the cluster to join (Ray sets it inside jobs). Without it each command starts a local Ray."""

    num_cpus: int
    """`CASPI_NUM_CPUS`: logical CPUs of a local Ray. Default: the cores, at least 2 (two training workers)."""

    object_store_bytes: int
    """`CASPI_OBJECT_STORE_MB`: a local Ray's object store, in MiB. Default 512: no corpus ever lies in it whole."""

    verbose: bool
    """`CASPI_VERBOSE`: show Ray's, MLflow's and transformers' own log lines too."""

    api_keys: frozenset[str]
    """`CASPI_API_KEYS`: comma-separated keys that the endpoint accepts. Empty: it accepts everyone."""

    api_keys_file: Path | None
    """`CASPI_API_KEYS_FILE`: a file of further keys, by their hashes, as `caspi keys add` writes it."""

    jobs_url: str | None
    """`CASPI_JOBS_URL`: the endpoint's database of asynchronous work, in SQLAlchemy's form. Default: SQLite."""

    header_timeout_s: float
    """`CASPI_HEADER_TIMEOUT_S`: how long a request's headers may take. Default 10."""

    openai_api_key: str
    """`OPENAI_API_KEY`: the key shown to an endpoint that is evaluated or compared. Empty: it needs none."""

    vllm_python: Path
    """`CASPI_VLLM_PYTHON`: the interpreter of vLLM's environment, for the engine `vllm`. Default: this one."""

    vllm_arguments: Mapping[str, Any]
    """`CASPI_VLLM_ARGUMENTS`: arguments of vLLM's engine as a JSON object, such as `{"max_num_seqs": 64}`."""

    @property
    def mlflow_folder(self) -> Path:
        """Where the embedded MLflow keeps its database and artifacts."""
        return self.home / "mlflow"


def read() -> Settings:
    """The settings of this moment. Paths are absolute: Ray workers change directory."""
    env = os.environ
    return Settings(
        home=Path(env.get("CASPI_HOME", "runs")).expanduser().absolute(),
        tracking_uri=env.get("MLFLOW_TRACKING_URI") or None,
        ray_address=env.get("RAY_ADDRESS") or None,
        num_cpus=int(env.get("CASPI_NUM_CPUS") or max(2, os.cpu_count() or 2)),
        object_store_bytes=int(env.get("CASPI_OBJECT_STORE_MB") or 512) * 2**20,
        verbose=env.get("CASPI_VERBOSE", "") not in ("", "0"),
        api_keys=frozenset(key.strip() for key in env.get("CASPI_API_KEYS", "").split(",") if key.strip()),
        api_keys_file=Path(env["CASPI_API_KEYS_FILE"]).expanduser().absolute()
        if env.get("CASPI_API_KEYS_FILE")
        else None,
        jobs_url=env.get("CASPI_JOBS_URL") or None,
        header_timeout_s=float(env.get("CASPI_HEADER_TIMEOUT_S") or 10),
        openai_api_key=env.get("OPENAI_API_KEY", ""),
        vllm_python=Path(env.get("CASPI_VLLM_PYTHON") or sys.executable).expanduser().absolute(),
        vllm_arguments=_json_object("CASPI_VLLM_ARGUMENTS"),
    )


def _json_object(name: str) -> dict[str, Any]:
    written = os.environ.get(name) or "{}"
    try:
        found = json.loads(written)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise RequestError(f'{name}={written}: not a JSON object; expected something like {{"max_num_seqs": 64}}')
    return found
