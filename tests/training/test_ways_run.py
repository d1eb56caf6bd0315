"""Whole runs with adapters, averages and frozen parts: a killed worker changes nothing, and what is kept is plain."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from caspi.corpus import Corpus
from caspi.errors import RunError
from caspi.recipe import Recipe
from caspi.training import train
from caspi.training.averaging import average
from caspi.training.checkpoint import read_state
from caspi.training.resuming import check_same_run
from tests.training.whole_runs import (
    changed,
    difference,
    lines,
    newest,
    steps,
    worker_killed_after_a_checkpoint,
)

pytestmark = pytest.mark.timeout(280)

WAYS: dict[str, dict[str, Any]] = {
    "lora and ema": {"lora": {"rank": 4}, "ema": {"decay": 0.9}, "optimizer": {"learning_rate": 5e-3}},
    "ema, rates, frozen encoder": {
        "ema": {"decay": 0.9},
        "frozen": ["encoder"],
        "optimizer": {"rates": {"projector": 2.0, "layer_decay": 0.8}},
        "gradient_checkpointing": {"decoder": [0, 1]},
    },
}


@pytest.fixture(
    scope="module", params=["lora and ema", pytest.param("ema, rates, frozen encoder", marks=pytest.mark.slow)]
)
def finished(
    request: pytest.FixtureRequest, recipe: Recipe, corpus: Corpus, uri: str, ray_2_cpus: None, tmp_path_factory
) -> tuple[Recipe, Path]:
    """An undisturbed run on two workers, which judge together."""
    way = changed(recipe, **WAYS[request.param])
    output = tmp_path_factory.mktemp("finished") / "run"
    result = train(way, corpus=corpus.path, output=output)
    assert result.loss_last < result.loss_first
    return way, output


@pytest.mark.slow  # without LoRA and EMA it is in test_run.py
def test_a_worker_killed_in_mid_run_changes_nothing(finished, corpus: Corpus, uri: str, tmp_path: Path):
    way, undisturbed = finished
    output = tmp_path / "run"
    with worker_killed_after_a_checkpoint(output):
        train(way, corpus=corpus.path, output=output)
    assert lines(output, "resumed"), "the run was over before a worker could be killed"
    assert steps(output) == steps(undisturbed)
    for name in ("model/model.safetensors", "trained.safetensors", "optimizer.safetensors"):
        assert (newest(output) / name).read_bytes() == (newest(undisturbed) / name).read_bytes(), name


def test_one_worker_and_a_judge_aside_end_where_two_workers_do(finished, corpus: Corpus, uri: str, tmp_path: Path):
    """The workers judge the model that they hold, the judge aside the one on the disk."""
    way, undisturbed = finished
    alone = changed(way, workers={"num_workers": 1}, validation={"aside": "always"})
    train(alone, corpus=corpus.path, output=tmp_path / "run")
    assert difference(tmp_path / "run", undisturbed) < 2e-4
    ours, theirs = (
        {line["step"]: line["eval/wer"] for line in lines(run, "validation")} for run in (tmp_path / "run", undisturbed)
    )
    # A model that still babbles for ever says other words for a rounding in its weights.
    assert ours == pytest.approx(theirs, rel=0.2)


def test_the_kept_model_is_that_of_the_best_checkpoint(finished):
    _, output = finished
    kept, best = load_file(output / "model" / "model.safetensors"), read_state(newest(output)).best[0]
    saved = load_file(output / "checkpoints" / f"checkpoint-{best.step:06d}" / "model" / "model.safetensors")
    assert kept.keys() == saved.keys() == load_file(output / "start" / "model.safetensors").keys()
    assert all(torch.equal(kept[name], saved[name]) for name in kept)


def test_another_way_is_another_run(finished, corpus: Corpus):
    way, output = finished
    check_same_run(changed(way, gradient_checkpointing=True), corpus, output)
    for other in (
        {"lora": {"rank": 2}, "frozen": []},
        {"ema": {"decay": 0.5}},
        {"ema": None},
        {"optimizer": {"rates": {"encoder": 0.3}}},
        {"optimizer": {"states": "8bit"}},
        {"frozen": ["projector"], "lora": None},
    ):
        with pytest.raises(RunError, match=r"this run began with training\.(ema|frozen|lora|optimizer)"):
            check_same_run(changed(way, **other), corpus, output)


def test_a_start_model_that_has_changed_is_refused_beside_adapters(
    recipe: Recipe, corpus: Corpus, uri: str, ray_2_cpus: None, tmp_path: Path
):
    way = changed(recipe, lora={"rank": 2}, epochs=1)
    output = tmp_path / "run"
    train(way, corpus=corpus.path, output=output)
    weights = output / "start" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(RunError, match="bring the model back that the run began with"):
        train(way, corpus=corpus.path, output=output, resume=True)


@pytest.mark.slow
def test_sharded_layers_end_where_whole_ones_do(
    recipe: Recipe, corpus: Corpus, uri: str, ray_2_cpus: None, tmp_path: Path
):
    """With several micro-batches a step, of which one worker has more than the other, and an average at the end."""
    ways = {
        "ema": {"decay": 0.9},
        "batches": {"max_micro_batch_tokens": 80},
        "validation": {"every_steps": 3, "average_best": 2},
        "epochs": 2,
    }
    whole, sharded = changed(recipe, **ways), changed(recipe, **ways, sharding="full")
    train(whole, corpus=corpus.path, output=tmp_path / "whole")
    train(sharded, corpus=corpus.path, output=tmp_path / "sharded")
    assert difference(tmp_path / "sharded", tmp_path / "whole") < 1e-5
    ours, theirs = (lines(tmp_path / each) for each in ("sharded", "whole"))
    assert [line["train/loss"] for line in ours] == pytest.approx([line["train/loss"] for line in theirs], abs=1e-5)
    for event in ("validation", "average"):
        ours, theirs = (lines(tmp_path / each, event) for each in ("sharded", "whole"))
        assert [line["eval/wer"] for line in ours] == [line["eval/wer"] for line in theirs] != []


def test_the_average_of_merged_models_is_plain_too(
    recipe: Recipe, corpus: Corpus, uri: str, ray_2_cpus: None, tmp_path: Path
):
    settings = {"every_steps": 3, "average_best": 3}
    output = tmp_path / "run"
    way = changed(recipe, lora={"rank": 4}, optimizer={"learning_rate": 5e-3}, validation=settings, epochs=2)
    train(way, corpus=corpus.path, output=output)
    (averaged,) = lines(output, "average")
    judged = min((line["eval/wer"], line["eval/cer"]) for line in lines(output, "validation"))
    best = [
        output / "checkpoints" / f"checkpoint-{grade.step:06d}" / "model" / "model.safetensors"
        for grade in read_state(newest(output)).best[:3]
    ]
    is_better = (averaged["eval/wer"], averaged["eval/cer"]) < judged
    expected = average(best) if is_better else load_file(best[0])
    kept = load_file(output / "model" / "model.safetensors")
    assert kept.keys() == expected.keys()
    for name, weight in kept.items():
        torch.testing.assert_close(weight, expected[name], atol=1e-7, rtol=0)
