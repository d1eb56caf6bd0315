"""Requests to MLflow from a side thread: each with a deadline, and without MLflow's minutes of retries."""

import functools
from typing import Any

from caspi.tracking.client import quiet_import

CONNECT_TIMEOUT_S = 5.0
ANSWER_TIMEOUT_S = 30.0

# Worth another try: the server was too slow this time, or has too many requests.
_TRANSIENT = (408, 425, 429)


class Unreachable(Exception):
    """The server did not confirm; the same must be sent again."""


class Refused(Exception):
    """The server understood and will never take this, for instance because of a name that it does not allow."""


class Rest:
    """MLflow's REST API, for one run."""

    def __init__(self, uri: str, run_id: str) -> None:
        self.uri = uri
        self.run_id = run_id

    def call(self, method: str, endpoint: str, **arguments: Any) -> dict[str, Any]:
        """Send a request to `mlflow/<endpoint>`. Returns the answer's JSON.

        Raises:
            Refused: HTTP 4xx, with MLflow's own explanation.
            Unreachable: anything else that is not a proper answer.
        """
        response = send(self.uri, f"/api/2.0/mlflow/{endpoint}", method, **arguments)
        try:
            answer = response.json()
        except ValueError:
            answer = None  # something in between answered with a page of its own
        if response.status_code == 200 and isinstance(answer, dict):
            return answer
        problem = f"HTTP {response.status_code}: {response.text[:300]}"
        # While MLflow restarts, what stands in front of it answers; only MLflow's own refusal is final.
        if is_refusal(response.status_code) and isinstance(answer, dict) and "error_code" in answer:
            raise Refused(problem)
        raise Unreachable(problem)

    def run(self) -> dict[str, Any]:
        """The run as MLflow has it now, with `info` and `data`."""
        found: dict[str, Any] = self.call("GET", "runs/get", params={"run_id": self.run_id})["run"]
        return found

    def tags(self) -> dict[str, str]:
        """The run's tags as MLflow has them now."""
        return {tag["key"]: tag["value"] for tag in self.run()["data"].get("tags", [])}

    def set_tag(self, key: str, value: str) -> None:
        """Set a tag of the run."""
        self.call("POST", "runs/set-tag", json={"run_id": self.run_id, "key": key, "value": value})


def send(host: str, endpoint: str, method: str, *, answer_timeout_s: float = ANSWER_TIMEOUT_S, **arguments: Any) -> Any:
    """One request, tried once. Returns the response, whatever its status.

    Raises:
        Unreachable: there is none.
    """
    request, credentials, request_error = _mlflow_http()
    try:
        return request(
            credentials(host),
            endpoint,
            method,
            max_retries=0,
            timeout=(CONNECT_TIMEOUT_S, answer_timeout_s),
            raise_on_status=False,
            **arguments,
        )
    except request_error as error:
        raise Unreachable(str(error)) from error


def is_refusal(status: int) -> bool:
    """Whether an HTTP status says that the same request will never be accepted."""
    return 400 <= status < 500 and status not in _TRANSIENT


@functools.cache
def _mlflow_http() -> tuple[Any, Any, type[Exception]]:
    """MLflow's own request function: it knows every way to authenticate. Imported in the thread: it takes seconds."""
    with quiet_import():
        from mlflow.exceptions import MlflowException
        from mlflow.utils.credentials import get_default_host_creds
        from mlflow.utils.rest_utils import http_request
    return http_request, get_default_host_creds, MlflowException
