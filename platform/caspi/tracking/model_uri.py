"""Names of models in MLflow: `models:/NAME@alias`, `models:/NAME/VERSION` and `runs:/ID/model`."""

from typing import Any

from caspi.errors import ModelError
from caspi.tracking.client import client

MODEL_ARTIFACT = "model"


def is_uri(model: str) -> bool:
    """Whether MODEL names something in MLflow."""
    return model.startswith(("models:/", "runs:/"))


def run_and_path(model: str, uri: str) -> tuple[str, str]:
    """The run and the artifact path that a `models:/` or `runs:/` URI means."""
    scheme, _, rest = model.partition(":/")
    rest = rest.strip("/")
    if scheme == "runs":
        run_id, _, path = rest.partition("/")
        if run_id and path:
            return run_id, path
    elif scheme == "models":
        version = _model_version(rest, model, uri)
        if version.run_id:
            return version.run_id, MODEL_ARTIFACT
        raise ModelError(f"{model}: it was not registered by Caspi: no run belongs to it")
    raise ModelError(f"{model}: expected models:/NAME@alias, models:/NAME/VERSION or runs:/ID/{MODEL_ARTIFACT}")


def pin_version(model: str, uri: str) -> str:
    """`models:/NAME@alias` as the `models:/NAME/VERSION` that it means now. Other URIs stay as they are.

    Raises:
        ModelError: MLflow has no such model.
    """
    rest = model.removeprefix("models:/").strip("/")
    if not model.startswith("models:/") or "@" not in rest:
        return model
    version = _model_version(rest, model, uri)
    return f"models:/{version.name}/{version.version}"


def _model_version(rest: str, model: str, uri: str) -> Any:
    with client(uri) as mlflow:
        from mlflow.exceptions import MlflowException

        try:
            if "@" in rest:
                return mlflow.get_model_version_by_alias(*rest.rsplit("@", 1))
            name, _, version = rest.rpartition("/")
            if not name or not version.isdigit():
                raise ModelError(f"{model}: expected models:/NAME@alias or models:/NAME/VERSION")
            return mlflow.get_model_version(name, version)
        except MlflowException as error:
            if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                raise
            raise ModelError(f"{model}: MLflow at {uri} has no such model; `caspi promote` registers one") from error
