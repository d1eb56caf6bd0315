"""The endpoint on this machine: Ray Serve started, watched until it answers, and taken down again."""

import contextlib
import importlib
import logging
import os
import random
import signal
import socket
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import caspi
from caspi import ray_session, settings, tracking
from caspi.errors import ModelError, RequestError, ServingError
from caspi.inference.exposure import check_exposure
from caspi.inference.header_deadline import CALLBACK, CALLBACK_VARIABLE
from caspi.recipe.sections import Inference, Serving

APPLICATION = "caspi"
FOLLOW_EVERY_S = 5.0
READY_TIMEOUT_S = 300.0

# Below those that connections get by themselves: Ray makes many before its proxy listens.
FREE_PORTS = range(20_000, 32_000)

# The proxy's own deadline is the last resort: it answers without an OpenAI body, so ours has to come first.
PROXY_GRACE_S = 10.0


@contextlib.contextmanager
def endpoint(
    model: str | Path,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    serving: Serving | None = None,
    inference: Inference | None = None,
    ready_timeout_s: float = READY_TIMEOUT_S,
    follow: bool = False,
) -> Iterator[str]:
    """Serve a model for as long as the block runs; yields the base URL, `http://127.0.0.1:8000`, once it answers.

    Joins the Ray session that is there, or starts one. `port=0` takes a free one. With `follow`, `models:/NAME@alias`
    is looked up again and again, and the model exchanged when the alias has moved.

    Raises:
        RequestError: the port is taken, the address is open to the network without API keys, `serve/` is not there, or
            there is no alias to follow.
        ServingError: the endpoint did not become ready.
    """
    serving, inference = serving or Serving(), inference or Inference()
    env = settings.read()
    check_exposure(host, has_keys=bool(env.api_keys or env.api_keys_file))
    if follow and "@" not in str(model):
        raise RequestError(f"{model} has no alias to follow; expected models:/NAME@alias, or no --follow")
    port = _claim_port(host, port)
    root = _repository_root()
    worker_env = {"PYTHONPATH": _python_path(root), "CASPI_HOME": str(settings.read().home)}
    args: dict[str, Any] = {
        **serving.model_dump(),  # the application's options have the names of both sections, and know no others
        **inference.model_dump(),
        "worker_env": worker_env,
    }
    os.environ.setdefault(CALLBACK_VARIABLE, CALLBACK)  # a Ray that starts here hands it to Serve's proxy
    with contextlib.ExitStack() as stack, contextlib.ExitStack() as starting:
        if tracking.is_uri(str(model)):
            # One server for all who ask while this starts, and for as long as we serve if the replicas go on asking.
            uri = (stack if follow else starting).enter_context(tracking.server())
            if follow:
                worker_env["MLFLOW_TRACKING_URI"] = uri
                args["follow_s"] = FOLLOW_EVERY_S
        args["model"] = _check_model(model)
        stack.enter_context(ray_session.connect())
        args |= _resources(serving.replicas)
        app = _import_app(root)
        application = app.build(args)
        starting.close()
        with running(
            application,
            host=host,
            port=port,
            request_timeout_s=serving.request_timeout_s,
            longest_request_s=app.parse(args).max_request_s,
            ready_timeout_s=ready_timeout_s,
        ) as url:
            yield url


def serve_until_stopped(model: str | Path, *, on_ready: Callable[[str], None], **options: Any) -> None:
    """`endpoint` until Ctrl-C or SIGTERM; requests in progress are finished first. `on_ready` is given the base URL.

    Raises:
        RequestError, ServingError: as `endpoint`.
    """
    stopped = threading.Event()
    with contextlib.ExitStack() as stack:
        stack.callback(_restore_signals(signal.SIGINT, signal.SIGTERM))
        url = stack.enter_context(endpoint(model, **options))
        # After Ray, which installs its own SIGTERM handler: exit at once.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: stopped.set())
        on_ready(url)
        stopped.wait()


@contextlib.contextmanager
def running(
    application: Any,
    *,
    host: str,
    port: int,
    request_timeout_s: float,
    longest_request_s: float | None = None,
    ready_timeout_s: float = READY_TIMEOUT_S,
) -> Iterator[str]:
    """A Serve application on the Ray session that is there; yields its base URL once `/readyz` is 200.

    Requests in progress get `request_timeout_s` when it ends; until then a long recording may take
    `longest_request_s`.

    Raises:
        RequestError: this cluster already serves something, which our start would replace.
        ServingError: it did not become ready in time, or cannot.
    """
    import ray.serve
    from ray.serve.config import HTTPOptions
    from ray.serve.schema import LoggingConfig

    if ray.serve.status().proxies:
        raise RequestError("this Ray cluster already serves something; use `serve deploy serve/config.yaml` there")
    level = "INFO" if settings.read().verbose else "ERROR"
    logs = LoggingConfig(log_level=level, enable_access_log=False)
    logging.getLogger("ray.serve").setLevel(level)  # importing Serve has set it to INFO
    # The replicas': files of the session, where a line a request belongs.
    request_logs = LoggingConfig(encoding="JSON", log_level="INFO", enable_access_log=False)
    url = f"http://{'127.0.0.1' if host == '0.0.0.0' else host}:{port}"
    try:
        ray.serve.start(
            proxy_location="HeadOnly",
            http_options=HTTPOptions(
                host=host, port=port, request_timeout_s=(longest_request_s or request_timeout_s) + PROXY_GRACE_S
            ),
            logging_config=logs,
        )
        # Not waiting here: `run` itself has no deadline, and replicas that find no CPU would keep it for ever.
        target = ray.serve.RunTarget(application, name=APPLICATION, route_prefix="/", logging_config=request_logs)
        ray.serve.run_many([target], wait_for_ingress_deployment_creation=False, wait_for_applications_running=False)
        _wait_until_ready(url, timeout_s=ready_timeout_s)
        yield url
    finally:
        _shut_down(timeout_s=request_timeout_s + PROXY_GRACE_S)


def _shut_down(*, timeout_s: float) -> None:
    """Take Serve down, requests in progress first.

    `ray.serve.shutdown` alone does that too, and then prints that the controller's call failed and will be retried:
    the controller answers by ending itself.
    """
    import ray.serve
    from ray.exceptions import GetTimeoutError, RayActorError

    with contextlib.suppress(ValueError, RayActorError, GetTimeoutError):  # ValueError: it never came up
        controller = ray.get_actor("SERVE_CONTROLLER_ACTOR", namespace="serve")
        ray.get(controller.graceful_shutdown.options(max_task_retries=0).remote(), timeout=timeout_s)
    ray.serve.shutdown()  # what is left: this process' own client


def _wait_until_ready(url: str, *, timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while not _answers(f"{url}/readyz"):
        problem = _deployment_problem()
        if problem:
            raise ServingError(f"the endpoint did not come up: {problem}")
        if time.monotonic() > deadline:
            raise ServingError(f"the endpoint was not ready after {timeout_s:.0f} s: {_deployment_state()}")
        time.sleep(0.2)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _deployment_problem() -> str | None:
    """Why the application will never be ready, once Serve has given up on it."""
    import ray.serve

    application = ray.serve.status().applications.get(APPLICATION)
    if application is None or application.status not in ("DEPLOY_FAILED", "UNHEALTHY"):
        return None
    return _deployment_state()


def _deployment_state() -> str:
    """What Serve says about each deployment, with the last lines of a traceback, which name the cause."""
    import ray.serve

    application = ray.serve.status().applications.get(APPLICATION)
    if application is None:
        return "Serve does not know the application"
    parts = [
        f"{name} is {deployment.status}: {_last_lines(deployment.message)}"
        for name, deployment in application.deployments.items()
        if deployment.status != "HEALTHY"
    ]
    return "; ".join(parts) or _last_lines(application.message) or str(application.status)


def _last_lines(message: str, *, num_lines: int = 3) -> str:
    return " ".join([line.strip() for line in message.strip().splitlines() if line.strip()][-num_lines:])


def _claim_port(host: str, port: int) -> int:
    """The port, or a free one for 0. Asked before anything starts: Ray's proxy would share a taken port silently."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    problem = ""
    for candidate in [port] if port else random.SystemRandom().sample(FREE_PORTS, 50):
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a server that just stopped is not in the way
            try:
                probe.bind((host, candidate))
            except OSError as error:
                problem = error.strerror or str(error)
            else:
                return candidate
    raise RequestError(f"cannot serve on {host}:{port}: {problem}; stop what listens there, or choose another --port")


def _check_model(model: str | Path) -> str:
    """The model as a replica will find it: a folder by its absolute path, for replicas run in other folders.

    What MLflow has is fetched here, where the replicas on this machine find it.

    Raises:
        ModelError: it is not there. Said here, because a replica would say it after half a minute.
    """
    folder = Path(model).expanduser()
    if folder.is_dir():
        return str(folder.absolute())
    if settings.read().ray_address:
        return str(model)  # the replicas may see what this machine does not
    if tracking.is_uri(str(model)):
        tracking.locate_model(str(model))
        return str(model)
    if str(model).startswith(("/", ".", "~")) or str(model).count("/") != 1:
        raise ModelError(
            f"{model}: no such model; expected a folder, a Hub id OWNER/NAME, models:/NAME@alias or runs:/ID/model"
        )
    return str(model)


def _repository_root() -> Path:
    """Where `serve/` lies: beside `platform/`, in the clone that this package was installed from."""
    root = Path(caspi.__file__).resolve().parents[2]
    if not (root / "serve" / "app.py").is_file():
        raise RequestError(
            f"{root} has no serve/app.py: the endpoint is part of the repository and not of the installed package; "
            "run from a clone (`make setup`)"
        )
    return root


def _import_app(root: Path) -> ModuleType:
    if str(root) not in sys.path:
        sys.path.insert(0, str(root))
    module = importlib.import_module("serve.app")
    if Path(str(module.__file__)).resolve().parent.parent != root:
        raise ServingError(f"`serve` is {module.__file__} here, which hides {root / 'serve'}; run from {root}")
    return module


def _python_path(root: Path) -> str:
    """Replicas import `serve` and `caspi` from this clone; Ray itself only gives them the current folder."""
    inherited = os.environ.get("PYTHONPATH", "")
    return os.pathsep.join(filter(None, [str(root), str(root / "platform"), inherited]))


def _resources(num_replicas: int) -> dict[str, float]:
    """What each model replica gets: a GPU where there is one, else its share of the CPUs (torch's threads follow)."""
    import ray

    resources = ray.cluster_resources()
    num_cpus = max(1, (int(resources.get("CPU", 1)) - 1) // num_replicas)
    if resources.get("GPU", 0) >= num_replicas:
        return {"num_cpus": min(num_cpus, 2), "num_gpus": 1}
    return {"num_cpus": num_cpus, "num_gpus": 0}


def _restore_signals(*numbers: signal.Signals) -> Callable[[], None]:
    """A function that puts back the handlers of this moment."""
    handlers = {number: signal.getsignal(number) for number in numbers}

    def restore() -> None:
        for number, handler in handlers.items():
            signal.signal(number, handler)

    return restore
