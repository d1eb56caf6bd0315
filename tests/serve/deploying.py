"""Applications deployed as `serve deploy` does it, without the dashboard in between."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import ray.serve
from ray.serve.config import HTTPOptions
from ray.serve.schema import ServeDeploySchema

from caspi.inference import serving


def deploy(import_path: str, args: Mapping[str, Any], *, user_config: Mapping[str, str] | None = None) -> None:
    """Deploy what `import_path` builds from `args`, or deploy it anew; `user_config` is that of the model."""
    from ray.serve._private.api import _get_global_client

    application: dict[str, Any] = {
        "name": serving.APPLICATION,
        "route_prefix": "/",
        "import_path": import_path,
        "runtime_env": {"env_vars": args["worker_env"]},
        "args": dict(args),
    }
    if user_config:
        application["deployments"] = [{"name": "TranscriptionModel", "user_config": dict(user_config)}]
    _get_global_client().deploy_apps(ServeDeploySchema.model_validate({"applications": [application]}))


@contextmanager
def deployed(import_path: str, args: Mapping[str, Any]) -> Iterator[str]:
    """An endpoint for as long as the block runs; yields its base URL once it answers."""
    port = serving._claim_port("127.0.0.1", 0)
    ray.serve.start(proxy_location="HeadOnly", http_options=HTTPOptions(port=port, request_timeout_s=70))
    try:
        deploy(import_path, args)
        url = f"http://127.0.0.1:{port}"
        serving._wait_until_ready(url, timeout_s=90)
        yield url
    finally:
        serving._shut_down(timeout_s=70)
