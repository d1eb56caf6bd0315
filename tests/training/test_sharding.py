"""Layers shared out over workers learn what whole ones do, and what is kept of them is whole."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from caspi.errors import RecipeError, TrainingError
from caspi.model import Batch
from caspi.recipe import parse_recipe
from caspi.training.step import Objective, train_step
from tests.training.learner import Learner
from tests.training.one_step import make_model
from tests.training.sharded_steps import SETTINGS

TOLERANCE = 1e-5


def steps(folder: Path, model: Path, sharding: str, restored: str = "") -> dict[str, Any]:
    """Three updates on two ranks."""
    folder.mkdir()
    environment = os.environ | {"WORLD_SIZE": "2", "STORE": str(folder / "store"), "OMP_NUM_THREADS": "1"}
    words = [sys.executable, "-m", "tests.training.sharded_steps", str(model), str(folder), sharding, restored]
    processes = [subprocess.Popen(words, env=environment | {"RANK": str(rank)}) for rank in range(2)]
    assert [process.wait(timeout=200) for process in processes] == [0, 0]
    found: dict[str, Any] = json.loads((folder / "result.json").read_text())
    return found


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], dict[str, Any]]:
    """Three updates with and without sharding, and three more from either checkpoint."""
    folder = tmp_path_factory.mktemp("sharding")
    make_model(folder / "model")
    results = {("", each): steps(folder / each, folder / "model", each) for each in ("none", "full")}
    for begun, then in (("none", "none"), ("none", "full"), ("full", "none")):
        checkpoint = results["", begun]["path"]
        results[begun, then] = steps(folder / f"{begun}-{then}", folder / "model", then, checkpoint)
    return results


def assert_same(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    for our, their in zip(ours["steps"], theirs["steps"], strict=True):
        assert our["num_tokens"] == their["num_tokens"]
        assert our["loss"] == pytest.approx(their["loss"], abs=TOLERANCE)
        assert our["grad_norm"] == pytest.approx(their["grad_norm"], rel=TOLERANCE)
    assert ours["judged"] == pytest.approx(theirs["judged"], rel=TOLERANCE)
    files = [Path(each["path"]) for each in (ours, theirs)]
    for name in ("model/model.safetensors", "trained.safetensors", "optimizer.safetensors"):
        our, their = (load_file(path / name) for path in files)
        assert our.keys() == their.keys()
        for key, tensor in our.items():
            torch.testing.assert_close(tensor, their[key], atol=TOLERANCE, rtol=0, msg=f"{name}: {key}")


def test_a_sharded_model_learns_the_same(found):
    assert_same(found["", "full"], found["", "none"])


def test_a_checkpoint_goes_on_with_and_without_sharding(found):
    assert_same(found["none", "full"], found["none", "none"])
    assert_same(found["full", "none"], found["none", "none"])


def test_a_checkpoint_of_a_sharded_model_goes_on_on_one_worker(found, tmp_path: Path):
    path = Path(found["", "full"]["path"])
    make_model(tmp_path)
    learner = Learner(tmp_path, SETTINGS).restore(path)
    trained = load_file(path / "trained.safetensors")
    for name, weight in learner.model.named_parameters():
        if weight.requires_grad:
            torch.testing.assert_close(weight.detach(), trained[f"weight.{name}"], atol=0, rtol=0)


def test_a_sharded_step_that_runs_out_of_memory_ends_the_worker_with_what_to_do(tmp_path: Path):
    """The others wait in the middle of the step: to do it again would be another number of passes."""

    def no_memory(batch: Batch) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    make_model(tmp_path)
    learner = Learner(tmp_path, {})
    objective = Objective(torch.device("cpu"), None, 1.0, is_sharded=True, before_forward=no_memory)
    with pytest.raises(TrainingError, match=r"out of memory with training\.sharding.*max_micro_batch_s"):
        train_step(learner.model, learner.optimizer, learner.batches(), objective)


@pytest.mark.parametrize(
    ("other", "named"),
    [
        ({"lora": {}}, "lora"),
        ({"optimizer": {"states": "8bit"}}, "optimizer.states=8bit"),
        ({"compile": True}, "compile"),
    ],
)
def test_what_does_not_go_together_with_sharding_is_refused(other: dict[str, Any], named: str):
    values = {"name": "x", "data": {"sources": [{"kind": "folder", "path": "x"}]}}
    with pytest.raises(RecipeError, match=f"sharding=full does not go together with {named}; leave one of them out"):
        parse_recipe(values | {"training": {"sharding": "full"} | other})
