"""A run's artifacts from a side thread: through the tracking server if it passes them on, else by MLflow's client."""

import tempfile
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import quote

from caspi.tracking.rest import ANSWER_TIMEOUT_S, Refused, Rest, Unreachable, is_refusal, send

# A server that passes artifacts on answers when its own store has the whole file.
_SLOWEST_BYTES_PER_S = 4_000_000
_PROXIED = ("mlflow-artifacts:", "http:", "https:")


class ArtifactStore:
    """Where the artifacts of one run are. It may be away while the tracking server answers, and the reverse."""

    def __init__(self, rest: Rest) -> None:
        self._rest = rest
        self._root: str | None = None

    def upload(self, content: Path | bytes, artifact_path: str) -> None:
        """Store a file, or bytes, under `artifact_path`; what was there is replaced.

        Raises:
            Refused: the store will never take it, or the file is gone.
            Unreachable: it is not known whether it arrived.
            OSError: the file cannot be read now.
        """
        if isinstance(content, Path) and not content.is_file():
            raise Refused(f"{content} is not there any more")
        _check_path(artifact_path)
        if not self._root_uri().startswith(_PROXIED):
            self._with_client(content, artifact_path)
        elif isinstance(content, bytes):
            self._request("PUT", artifact_path, content, size_bytes=len(content))
        else:
            with content.open("rb") as file:
                self._request("PUT", artifact_path, file, size_bytes=content.stat().st_size)

    def delete(self, artifact_path: str) -> None:
        """Remove an artifact, if it is there.

        Raises:
            Refused: the store does not delete.
            Unreachable: it is not known whether it is gone.
        """
        if self._root_uri().startswith(_PROXIED):
            self._request("DELETE", artifact_path)
        else:
            _translated(self._client().delete_artifacts, artifact_path)

    def _request(
        self, method: str, artifact_path: str, body: BinaryIO | bytes | None = None, *, size_bytes: int = 0
    ) -> None:
        from mlflow.store.artifact.mlflow_artifacts_repo import MlflowArtifactsRepository

        root = self._root_uri()
        if root.startswith("mlflow-artifacts:"):
            root = MlflowArtifactsRepository.resolve_uri(root, self._rest.uri)
        response = send(
            root,
            f"/{quote(artifact_path)}",
            method,
            answer_timeout_s=ANSWER_TIMEOUT_S + size_bytes / _SLOWEST_BYTES_PER_S,
            data=body,
        )
        if response.status_code == 200 or (method == "DELETE" and response.status_code == 404):
            return
        problem = f"HTTP {response.status_code}: {response.text[:300]}"
        raise Refused(problem) if is_refusal(response.status_code) else Unreachable(problem)

    def _with_client(self, content: Path | bytes, artifact_path: str) -> None:
        """By MLflow's client of the store. It names artifacts like the file, so give it one of the right name."""
        folder, _, name = artifact_path.rpartition("/")
        with tempfile.TemporaryDirectory() as temporary:
            local = Path(temporary) / name
            if isinstance(content, bytes):
                local.write_bytes(content)
            else:
                local.symlink_to(content.resolve())
            _translated(self._client().log_artifact, str(local), folder or None)

    def _client(self) -> Any:
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        return get_artifact_repository(self._root_uri(), tracking_uri=self._rest.uri)

    def _root_uri(self) -> str:
        if self._root is None:
            self._root = str(self._rest.run()["info"]["artifact_uri"])
        return self._root


def _check_path(artifact_path: str) -> None:
    """As MLflow's client does: a path that leaves the run's folder would reach another run's artifacts."""
    from mlflow.exceptions import MlflowException
    from mlflow.store.artifact.artifact_repo import verify_artifact_path

    try:
        verify_artifact_path(artifact_path)
    except MlflowException as error:
        raise Refused(str(error)) from error


def _translated(action: Any, *arguments: Any) -> None:
    """Do it, and turn the exceptions of whatever library reaches the store into ours."""
    try:
        action(*arguments)
    except Exception as error:  # S3, Azure, Google, SFTP: each has its own
        status = _http_status(error)
        raise (Refused if status and is_refusal(status) else Unreachable)(str(error)) from error


def _http_status(error: BaseException | None) -> int | None:
    """The HTTP status behind an exception of requests or botocore, or behind its cause; None where there is none."""
    while error is not None:
        response = getattr(error, "response", None)
        if isinstance(response, dict):
            found = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        else:
            found = getattr(response, "status_code", None)
        if isinstance(found, int):
            return found
        error = error.__cause__ or error.__context__
    return None
