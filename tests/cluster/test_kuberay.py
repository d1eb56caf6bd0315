"""The Kubernetes manifests against KubeRay's schemas, Ray's own reading of them, and the recipe they are for."""

from pathlib import Path
from typing import Any

import jsonschema
import pytest
import ray
import yaml
from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr
from ray.serve.schema import ServeDeploySchema

from caspi.recipe import load_recipe
from serve.options import parse

ROOT = Path(__file__).parents[2]
MANIFESTS = sorted((ROOT / "cluster" / "kuberay").glob("*.yaml"))
RECIPE = ROOT / "jobs" / "recipes" / "hebrew_1_7b_8xa100.yaml"


def read(name: str) -> dict[str, Any]:
    manifest: dict[str, Any] = yaml.safe_load((ROOT / "cluster" / "kuberay" / name).read_text())
    return manifest


def cluster_spec(manifest: dict[str, Any]) -> dict[str, Any]:
    spec: dict[str, Any] = manifest["spec"]
    return spec.get("rayClusterSpec") or spec.get("rayClusterConfig") or spec


def containers(manifest: dict[str, Any]) -> list[dict[str, Any]]:
    spec = cluster_spec(manifest)
    groups = [spec["headGroupSpec"], *spec["workerGroupSpecs"]]
    return [container for group in groups for container in group["template"]["spec"]["containers"]]


def node_types(manifest: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """What Ray's autoscaler makes of the groups."""
    resource = {"metadata": {"name": "caspi", "namespace": "default"}, "spec": cluster_spec(manifest)}
    found: dict[str, dict[str, Any]] = _derive_autoscaling_config_from_ray_cr(resource)["available_node_types"]
    return found


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.stem)
def test_manifest_fits_its_schema(path: Path, crds: dict[str, dict[str, Any]]):
    manifest = yaml.safe_load(path.read_text())
    jsonschema.Draft7Validator(crds[manifest["kind"]]).validate(manifest)


def test_the_schemas_would_catch_a_mistyped_key(crds: dict[str, dict[str, Any]]):
    manifest = read("ray-cluster.caspi.yaml")
    manifest["spec"]["workerGroupSpecs"][0]["minReplica"] = 1
    with pytest.raises(jsonschema.ValidationError, match="minReplica"):
        jsonschema.Draft7Validator(crds["RayCluster"]).validate(manifest)


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.stem)
def test_every_pod_runs_the_pinned_ray_and_asks_for_a_token(path: Path):
    manifest = yaml.safe_load(path.read_text())
    assert cluster_spec(manifest)["rayVersion"] == ray.__version__
    assert {container["image"].rsplit("-ray")[-1] for container in containers(manifest)} == {ray.__version__}
    assert cluster_spec(manifest)["authOptions"] == {"mode": "token"}


@pytest.mark.parametrize("name", ["ray-cluster.caspi.yaml", "ray-job.train.yaml"])
def test_the_a100_group_holds_all_workers_of_the_recipe(name: str):
    workers = load_recipe(RECIPE).training.workers
    group = node_types(read(name))["a100"]
    assert group["max_workers"] * group["resources"]["GPU"] == workers.num_workers
    assert group["resources"]["CPU"] >= workers.num_workers * workers.cpus_per_worker


def test_the_cluster_can_scale_up_for_the_recipe_from_nothing():
    types = node_types(read("ray-cluster.caspi.yaml"))
    assert {name: each["min_workers"] for name, each in types.items()} == {"headgroup": 0, "a100": 0, "cpu": 0}
    accelerator = load_recipe(RECIPE).training.workers.accelerator_type
    assert types["a100"]["resources"][f"accelerator_type:{accelerator}"] == 1
    assert types["headgroup"]["resources"]["CPU"] == 0


def test_the_job_trains_the_recipe_whose_resources_it_has():
    entrypoint = read("ray-job.train.yaml")["spec"]["entrypoint"]
    assert f"python -m jobs.train_model /opt/caspi/{RECIPE.relative_to(ROOT)} " in entrypoint


def test_the_service_deploys_our_application_with_arguments_that_it_takes():
    manifest = read("ray-service.transcription.yaml")
    config = ServeDeploySchema.model_validate(yaml.safe_load(manifest["spec"]["serveConfigV2"]))
    (application,) = config.applications
    options = parse(application.args)
    assert application.import_path == "serve.app:build"
    assert config.http_options.request_timeout_s > options.max_request_s
    gpus = node_types(manifest)["gpu"]
    assert gpus["min_workers"] * gpus["resources"]["GPU"] == options.replicas * options.num_gpus
