"""The `ray up` file, by Ray's own validator and against the recipe it is for."""

from pathlib import Path
from typing import Any

import pytest
import ray
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

from caspi.recipe import load_recipe

ROOT = Path(__file__).parents[2]


@pytest.fixture
def config() -> dict[str, Any]:
    """The file with Ray's defaults filled in, as `ray up` sees it."""
    prepared: dict[str, Any] = prepare_config(yaml.safe_load((ROOT / "cluster" / "ray-cluster.aws.yaml").read_text()))
    return prepared


def test_ray_accepts_it(config: dict[str, Any]):
    validate_config(config)


def test_it_scales_from_zero(config: dict[str, Any]):
    workers = {name: each for name, each in config["available_node_types"].items() if name != config["head_node_type"]}
    assert {each["min_workers"] for each in workers.values()} == {0}
    assert sum(each["max_workers"] for each in workers.values()) == config["max_workers"]
    assert any("RAY_enable_autoscaler_v2=1" in command for command in config["head_start_ray_commands"])


def test_the_a100_machines_hold_all_workers_of_the_recipe(config: dict[str, Any]):
    workers = load_recipe(ROOT / "jobs" / "recipes" / "hebrew_1_7b_8xa100.yaml").training.workers
    machine = config["available_node_types"]["a100"]
    assert machine["max_workers"] * machine["resources"]["GPU"] == workers.num_workers
    assert machine["resources"]["CPU"] >= workers.num_workers * workers.cpus_per_worker
    assert machine["resources"][f"accelerator_type:{workers.accelerator_type}"] == 1


def test_no_command_installs_another_ray_than_the_pinned_one(config: dict[str, Any]):
    kinds = ("setup", "head_setup", "worker_setup")
    commands = [command for kind in kinds for command in config[f"{kind}_commands"]]
    assert commands
    assert not [command for command in commands if "install" in command]
    assert all(f"== '{ray.__version__}'" in command for command in commands)
    assert config["docker"]["image"].endswith(f"-ray{ray.__version__}")
