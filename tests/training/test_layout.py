"""The same utterances in any split, over micro-batches and over workers: the same loss, gradient and weights."""

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.training.one_step import COLLATIONS, NUM_UTTERANCES, make_model

TOLERANCE = 1e-5
SIZES = (NUM_UTTERANCES, 16, 1)  # utterances of a micro-batch

Update = tuple[dict[str, float], dict[str, torch.Tensor]]  # what it reported, and the weights after it


@pytest.fixture(scope="module")
def updates(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[int, str, int], Update]:
    """One update for each number of workers, each collation, and each size of micro-batches."""
    model = tmp_path_factory.mktemp("model")
    make_model(model)
    found = {}
    for workers in (1, 2, 4):
        folder = tmp_path_factory.mktemp("updates")
        step(model, folder, workers)
        for collation, size in itertools.product(COLLATIONS, SIZES):
            result = json.loads((folder / f"{collation}-{size}.json").read_text())
            found[workers, collation, size] = result, torch.load(folder / f"{collation}-{size}.pt")
    return found


def step(model: Path, folder: Path, workers: int) -> None:
    common = {"WORLD_SIZE": str(workers), "STORE": str(folder / "store"), "OMP_NUM_THREADS": "1"}
    words = [sys.executable, "-m", "tests.training.one_step", model, folder, *SIZES]
    processes = [
        subprocess.Popen(list(map(str, words)), env=os.environ | common | {"RANK": str(rank)})
        for rank in range(workers)
    ]
    assert [process.wait(timeout=200) for process in processes] == [0] * workers


@pytest.mark.parametrize("workers", [1, 2, 4])
@pytest.mark.parametrize("collation", COLLATIONS)
@pytest.mark.parametrize("size", SIZES)
def test_every_layout_makes_the_same_update(updates, workers: int, collation: str, size: int):
    """What one by one and without any padding comes to."""
    expected, expected_weights = updates[1, "bucketed", 1]
    result, weights = updates[workers, collation, size]
    assert result["num_tokens"] == expected["num_tokens"]
    assert result["loss"] == pytest.approx(expected["loss"], abs=TOLERANCE)
    assert result["grad_norm"] == pytest.approx(expected["grad_norm"], abs=TOLERANCE)
    assert weights.keys() == expected_weights.keys()
    for name, weight in weights.items():
        torch.testing.assert_close(weight, expected_weights[name], atol=TOLERANCE, rtol=0, msg=name)
