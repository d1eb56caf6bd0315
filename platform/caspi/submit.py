"""Running the same jobs on a cluster: upload this repository through Ray's job API, start one job, follow it.

`ray job submit` does the same by hand (see any file in jobs/). This adds an answer to what goes wrong there: the recipe
is checked before anything is uploaded, every node finds the package, the address and the token are tried first, and the
exit code is the job's own.
"""

import asyncio
import contextlib
import json
import logging
import os
import shlex
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import caspi
from caspi import settings
from caspi.errors import CaspiError, RequestError
from caspi.recipe import load_recipe

ANSWER_TIMEOUT_S = 10.0
"""How long the cluster may take to answer a plain question."""

SILENCE_S = 30.0
"""After so long without a line from the job, ask whether the cluster is still there."""

CODE = ("platform", "jobs", "serve")
"""What is uploaded. Not the checkout without exceptions: people keep corpora there, and Ray takes 100 MiB."""

CHATTER = (
    "ray._private.runtime_env.packaging",
    "ray._private.runtime_env.working_dir",
    "ray.dashboard.modules.dashboard_sdk",
    "ray.dashboard.modules.job.sdk",
)
"""Loggers of Ray's client that tell at length which files were not uploaded."""


@dataclass(frozen=True, slots=True)
class Submission:
    """A job on a cluster, as last seen."""

    id: str
    status: str
    """Ray's word: PENDING, RUNNING, SUCCEEDED, FAILED or STOPPED."""

    exit_code: int | None
    """The job's own exit code. None while it runs; 1 for a job that ended without one, such as a stopped one."""

    message: str
    """Ray's explanation of the status, when it has one."""


def submit(
    job: str,
    recipe: str | Path | None = None,
    *,
    address: str,
    overrides: Sequence[str] = (),
    arguments: Sequence[str] = (),
    submission_id: str | None = None,
    follow: bool = True,
    write: Callable[[str], object] = lambda lines: print(lines, end="", flush=True),
) -> Submission:
    """Run `python -m jobs.JOB RECIPE ARGUMENTS` on the cluster at `address` and, with `follow`, stay until it ends.

    `recipe` must lie inside the repository, to be uploaded with the code; a job that takes none is given None.
    `overrides` are its `--set`. `submission_id` makes submitting idempotent: a job that already has it is followed, not
    started again. `write` gets the job's output.

    Raises:
        RequestError: the job or the recipe is wrong, or the address does not answer; nothing was started.
        CaspiError: the cluster stopped answering while the job ran.
    """
    root = _repository()
    uploaded = _check_recipe(root, recipe, overrides)
    command = _entrypoint(root, job, uploaded, overrides, arguments)
    environment = runtime_env(root, *uploaded)
    address = _checked_address(address)
    headers = _token_header()
    _check_cluster(address, headers)
    client = _client(address, headers)
    if submission_id is None or not _exists(client, submission_id):
        try:
            submission_id = client.submit_job(
                entrypoint=command, runtime_env=environment, submission_id=submission_id, metadata={"job": job}
            )
        except (RuntimeError, ValueError) as error:
            raise RequestError(f"{address}: refused the job: {error}") from error
    if follow:
        _follow(client, submission_id, lambda: _check_cluster(address, headers), write)
    return _seen(client, submission_id)


def runtime_env(root: Path, *besides: str) -> dict[str, Any]:
    """What a job carries along: the code, files of the checkout `besides` it, and where MLflow is.

    The driver and every worker start in the uploaded folder, so that a relative PYTHONPATH finds `caspi` in all of
    them. The folder alone would not: it puts the root on the path, not `platform/`.
    """
    env_vars = {"PYTHONPATH": "platform"}
    tracking_uri = settings.read().tracking_uri
    if tracking_uri:
        if not tracking_uri.startswith(("http://", "https://")):
            raise RequestError(
                f"MLFLOW_TRACKING_URI={tracking_uri}: workers on other machines cannot reach it; "
                "give the http(s) address of an MLflow server, or unset it"
            )
        env_vars["MLFLOW_TRACKING_URI"] = tracking_uri
    return {"working_dir": str(root), "excludes": _all_but(*CODE, *besides), "env_vars": env_vars}


def _all_but(*paths: str) -> list[str]:
    """Patterns, as in .gitignore, that exclude everything except these paths. The last pattern that fits decides."""
    patterns = ["/*", "!/[.]"]  # the second: Ray asks for the root itself too, by the name of "."
    for path in sorted(paths):
        for parent in reversed(PurePosixPath(path).parents[:-1]):
            if parent.parts[0] not in paths:
                patterns += [f"!/{parent}", f"/{parent}/*"]  # the folder, but nothing else in it
        patterns.append(f"!/{path}")
    return [*patterns, "__pycache__/"]


def _repository() -> Path:
    """The root of the checkout that this package was installed from."""
    root = Path(caspi.__file__).resolve().parents[2]
    if not (root / "jobs").is_dir():
        raise RequestError(f"{root}: no jobs/ here; `caspi submit` uploads a checkout, installed with `make setup`")
    return root


def _check_recipe(root: Path, recipe: str | Path | None, overrides: Sequence[str]) -> list[str]:
    """The recipe's path in the checkout, as a list of one or none. A mistyped key is found here, not minutes later."""
    if recipe is None:
        return []
    load_recipe(recipe, overrides=overrides)
    path = Path(recipe).resolve()
    if not path.is_relative_to(root):
        raise RequestError(f"{recipe}: not inside {root}, so it would not be uploaded; put it into jobs/recipes/")
    return [path.relative_to(root).as_posix()]


def _entrypoint(root: Path, job: str, recipe: Sequence[str], overrides: Sequence[str], arguments: Sequence[str]) -> str:
    """The shell command of the job."""
    known = sorted(path.stem for path in (root / "jobs").glob("[!_]*.py"))
    if job not in known:
        raise RequestError(f"job {job!r}; expected one of {', '.join(known)}")
    settings = [f"--set={override}" for override in overrides]
    return shlex.join(["python", "-m", f"jobs.{job}", *recipe, *settings, *arguments])


def _checked_address(address: str) -> str:
    """The address of the dashboard, which is where the job API is."""
    if "://" not in address:
        address = f"http://{address}"
    if not address.startswith(("http://", "https://")):
        raise RequestError(f"{address}: expected the dashboard's address, for instance http://HEAD:8265")
    return address.rstrip("/")


def _token_header() -> dict[str, str]:
    """The token that `ray start` asks for by default, where Ray's own tools would find it.

    Ray's client sends it only under RAY_AUTH_MODE=token, which few people set on their own machine.
    """
    token = os.environ.get("RAY_AUTH_TOKEN")
    if not token:
        path = os.environ.get("RAY_AUTH_TOKEN_PATH") or "~/.ray/auth_token"
        with contextlib.suppress(OSError):
            token = Path(path).expanduser().read_text(encoding="utf-8")
    return {"Authorization": f"Bearer {token.strip()}"} if token else {}


def _check_cluster(address: str, headers: dict[str, str]) -> None:
    """Ask the cluster for its version. Ray's client would wait for minutes on an address where nobody answers."""
    import ray

    request = urllib.request.Request(f"{address}/api/version", headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=ANSWER_TIMEOUT_S) as answer:
            version = json.load(answer)["ray_version"]
    except urllib.error.HTTPError as error:
        if error.code in (401, 403):
            raise RequestError(
                f"{address}: the cluster asks for {'a' if error.code == 401 else 'another'} token; set RAY_AUTH_TOKEN "
                "to what `ray get-auth-token` prints on its head"
            ) from error
        raise RequestError(f"{address}: answers {error.code}; expected Ray's dashboard here") from error
    except OSError as error:
        raise RequestError(
            f"{address}: no answer ({getattr(error, 'reason', error)}); expected Ray's dashboard here. For a cluster "
            "elsewhere forward its port first: `ray dashboard CLUSTER.yaml` or `kubectl port-forward service/... 8265`"
        ) from error
    except (ValueError, KeyError) as error:
        raise RequestError(f"{address}: something else than Ray's dashboard answers here") from error
    if version.split(".")[:2] != ray.__version__.split(".")[:2]:
        raise RequestError(
            f"{address}: runs Ray {version}; this code is written for {ray.__version__}: build the cluster's image anew"
        )


def _client(address: str, headers: dict[str, str]) -> Any:
    from ray.job_submission import JobSubmissionClient

    if not settings.read().verbose:
        for name in CHATTER:
            logging.getLogger(name).setLevel(logging.ERROR)
    # In the environment they would silently win over the address that was asked for.
    with _without("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
        return JobSubmissionClient(address, headers=headers)


@contextlib.contextmanager
def _without(*names: str) -> Iterator[None]:
    """The environment without some variables for as long as the block runs."""
    kept = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(kept)


def _exists(client: Any, submission_id: str) -> bool:
    return any(details.submission_id == submission_id for details in client.list_jobs())


def _follow(client: Any, submission_id: str, check: Callable[[], None], write: Callable[[str], object]) -> None:
    """Pass the job's output on until it ends."""
    try:
        asyncio.run(_tail(client.tail_job_logs(submission_id), check, write))
        while not client.get_job_status(submission_id).is_terminal():  # the log can end a moment before the job does
            time.sleep(0.5)
    except KeyboardInterrupt:
        write(f"\n{submission_id} goes on without us; to end it: ray job stop {submission_id}\n")
        raise
    except (OSError, RuntimeError, RequestError) as error:
        raise CaspiError(f"{submission_id}: lost sight of the job: {error}") from error


async def _tail(lines: Any, check: Callable[[], None], write: Callable[[str], object]) -> None:
    """Write what comes. A cluster that is gone can leave the connection open and silent, hence the checks."""
    while True:
        upcoming = asyncio.ensure_future(anext(lines, None))
        while not (await asyncio.wait({upcoming}, timeout=SILENCE_S))[0]:
            await asyncio.to_thread(check)
        new = upcoming.result()
        if new is None:
            return
        write(new)


def _seen(client: Any, submission_id: str) -> Submission:
    details = client.get_job_info(submission_id)
    status = details.status.value
    ended_badly = status in ("FAILED", "STOPPED")
    exit_code = details.driver_exit_code
    if status == "SUCCEEDED":
        exit_code = 0
    elif ended_badly and not exit_code:
        exit_code = 1
    return Submission(submission_id, status, exit_code, details.message or "")
