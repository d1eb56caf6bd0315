"""The schemas of KubeRay's resources. Megabytes of someone else's, so they are not in this repository."""

import os
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
PLACES = (os.environ.get("CASPI_KUBERAY_CRDS", ""), ROOT / "shared/data/kuberay", ROOT.parent / "shared/data/kuberay")


@pytest.fixture(scope="session")
def crds() -> dict[str, dict[str, Any]]:
    """JSON schemas by kind: RayCluster, RayJob, RayService."""
    folder = next((Path(place) for place in PLACES if place and Path(place).is_dir()), None)
    if folder is None:
        pytest.skip("no KubeRay schemas here; set CASPI_KUBERAY_CRDS to a folder with ray.io_*.yaml of KubeRay's CRDs")
    definitions = [
        yaml.load(path.read_text(), Loader=yaml.CSafeLoader)["spec"] for path in folder.glob("ray.io_*.yaml")
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
