"""The schemas of KubeRay's resources. Megabytes of someone else's, so they are not in this repository."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml


@pytest.fixture(scope="session")
def crds(material: Callable[[str], Path]) -> dict[str, dict[str, Any]]:
    """JSON schemas by kind: RayCluster, RayJob, RayService."""
    definitions = [
        yaml.load(path.read_text(), Loader=yaml.CSafeLoader)["spec"]
        for path in material("kuberay").glob("ray.io_*.yaml")
    ]
    return {
        definition["names"]["kind"]: strict(version["schema"]["openAPIV3Schema"])
        for definition in definitions
        for version in definition["versions"]
        if version["name"] == "v1"
    }


def strict(schema: Any) -> Any:
    """An OpenAPI schema as a JSON schema that refuses keys it does not know, as `kubectl --validate=strict` does."""
    if isinstance(schema, list):
        return [strict(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    converted = {key: strict(value) for key, value in schema.items()}
    # A property may itself be called `properties`; only beside a type is it the keyword.
    is_object = schema.get("type") == "object" and isinstance(schema.get("properties"), dict)
    if is_object and not schema.get("x-kubernetes-preserve-unknown-fields"):
        converted.setdefault("additionalProperties", False)
    if schema.get("nullable") is True and "type" in schema:
        converted["type"] = [schema["type"], "null"]
    return converted
