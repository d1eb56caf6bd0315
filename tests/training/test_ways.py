"""Ways to train: each learns, does what it says, is split like any other, and goes on from a checkpoint to the bit."""

import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from caspi.errors import RecipeError, RequestError, RunError
from caspi.model import Batch, describe, load, loss_sums
from caspi.model.adapters import merged, native_weights
from caspi.model.parts import layers, part_of
from caspi.model.weights import digest
from caspi.recipe import parse_recipe
from caspi.recipe.sections import Training
from caspi.training import checkpoint, parameters
from caspi.training.ema import kept
from caspi.training.resuming import check_start
from caspi.training.step import learning_rate
from tests.training.learner import Learner
from tests.training.one_step import make_model

EIGHT_BIT = {"optimizer": {"states": "8bit"}}

WAYS: dict[str, dict[str, Any]] = {
    "all weights": {},
    "gradient checkpointing": {"gradient_checkpointing": {"encoder": [0, 1], "decoder": [1, 2]}},
    "frozen encoder": {"frozen": ["encoder"]},
    "frozen decoder": {"frozen": ["decoder"], "optimizer": {"learning_rate": 1e-2}},
    "lora": {"lora": {"rank": 8}, "optimizer": {"learning_rate": 1e-2}},
    "rates": {"optimizer": {"rates": {"encoder": 0.5, "projector": 2.0, "layer_decay": 0.8}}},
    "ema": {"ema": {"decay": 0.9}},
    "lora and ema": {"lora": {"rank": 8}, "ema": {"decay": 0.9}, "optimizer": {"learning_rate": 1e-2}},
    "frozen projector, rates and ema": {
        "frozen": ["projector"], "ema": {"decay": 0.9}, "optimizer": {"rates": {"layer_decay": 0.8}}
    },
    "8bit": EIGHT_BIT,
}  # fmt: skip

each_way = pytest.mark.parametrize("way", WAYS)


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """More of them wait for each other longer than so small a model computes."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def start(one_thread: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that has learned other utterances: beside a frozen part that knows nothing, nothing can be learned."""
    fresh, folder = (tmp_path_factory.mktemp(name) for name in ("fresh", "start"))
    make_model(fresh)
    one = Learner(fresh, {"optimizer": {"learning_rate": 6e-3}}, share=1)
    one.learn(100)
    one.loaded.save(folder)
    return folder


def learner(start: Path, way: str) -> Learner:
    if WAYS[way] == EIGHT_BIT:
        pytest.importorskip("bitsandbytes")
    return Learner(start, WAYS[way])


def logits(model: torch.nn.Module, batch: Batch) -> torch.Tensor:
    model.eval()
    with torch.no_grad():
        return model(
            input_ids=batch.input_ids,
            input_features=batch.features.values,
            input_features_mask=batch.features.mask,
        ).logits


@each_way
def test_it_learns(start, way):
    results = learner(start, way).learn(25)
    assert results[-1].loss < 0.75 * results[0].loss


@each_way
def test_the_update_does_not_depend_on_the_micro_batches(start, way):
    """To rounding; in 8 bits, to the steps between two values of a moment."""
    whole, split = learner(start, way), learner(start, way)
    whole.learn(3)
    split.learn(3, per_batch=2)
    for name, weight in split.weights().items():
        torch.testing.assert_close(weight, whole.weights()[name], atol=3e-5, rtol=0, msg=name)


@each_way
def test_a_step_that_ran_out_of_memory_is_done_again_and_comes_out_the_same(start, way):
    def small_memory(batch: Batch) -> None:
        if batch.num_utterances > 4:
            raise torch.OutOfMemoryError("CUDA out of memory")

    undisturbed, disturbed = learner(start, way), learner(start, way)
    undisturbed.learn(per_batch=4)
    (result,) = disturbed.learn(before_forward=small_memory)
    assert result.num_halvings == 1
    for name, weight in disturbed.weights().items():
        torch.testing.assert_close(weight, undisturbed.weights()[name], atol=1e-5, rtol=0, msg=name)


@each_way
def test_a_run_goes_on_from_a_checkpoint_as_if_nothing_had_been(start, way, tmp_path: Path):
    undisturbed = learner(start, way)
    undisturbed.learn(4)
    path = undisturbed.save(tmp_path)
    resumed = learner(start, way).restore(path)
    assert checkpoint.damage(path) is None
    assert resumed.step == 4
    for each in (undisturbed, resumed):
        each.learn(3)
    assert_equal(undisturbed.weights(), resumed.weights())
    for each in (undisturbed, resumed):
        each.save(tmp_path / str(each is resumed))
    for name in checkpoint.hashes(path):  # the kept model, what is trained, the moments
        files = [tmp_path / str(each is resumed) / "checkpoint-000007" / name for each in (undisturbed, resumed)]
        assert files[0].read_bytes() == files[1].read_bytes(), name


@each_way
def test_a_checkpoint_holds_a_plain_model_that_computes_like_the_one_in_training(start, way, tmp_path: Path):
    each = learner(start, way)
    each.learn(3)
    folder = each.save(tmp_path) / "model"
    weights = load_file(folder / "model.safetensors")
    assert weights.keys() == load_file(start / "model.safetensors").keys()
    (batch,) = each.batches()
    with each.ema.applied() if each.ema else torch.no_grad():
        expected = logits(each.model, batch)
    torch.testing.assert_close(logits(load(folder).model, batch), expected, atol=1e-5, rtol=0)


def test_frozen_parts_end_as_they_began_and_cost_no_memory(start):
    for parts in (["encoder"], ["decoder"], ["projector", "decoder"]):
        one = Learner(start, {"frozen": parts})
        one.learn(3)
        for name, weight in one.model.named_parameters():
            if part_of(name) in parts:
                assert torch.equal(weight, one.start[name]), name
                assert weight.grad is None
                assert weight not in one.optimizer.state
            elif not name.endswith("k_proj.bias"):  # without effect, and never trained
                assert not torch.equal(weight, one.start[name]), name


def test_only_adapters_are_trained(start):
    one = Learner(start, {"lora": {"rank": 4, "parts": ["decoder"]}})
    assert_equal(native_weights(one.model), load(start).model.state_dict())
    one.learn(3)
    assert_equal(native_weights(one.model), load(start).model.state_dict())
    trained = {name for name, weight in one.model.named_parameters() if weight.requires_grad}
    assert {part_of(name) for name in trained} == {"decoder"}
    assert all(".lora_A." in name or ".lora_B." in name for name in trained)
    # Two layers with seven linear modules each, and two matrices for each of those.
    assert len(trained) == 2 * 7 * 2
    assert {parameter for parameter in one.optimizer.state} == {
        weight for name, weight in one.model.named_parameters() if name in trained
    }


def test_adapters_are_merged_for_a_block_and_the_weights_below_come_back_to_the_bit(start):
    one = Learner(start, {"lora": {}})
    one.learn(3)
    (batch,) = one.batches()
    before, adapted = one.weights(), logits(one.model, batch)
    with merged(one.model):
        layer = one.model.get_submodule("model.language_model.layers.0.mlp.up_proj")
        by_hand = before["model.language_model.layers.0.mlp.up_proj.base_layer.weight"] + (
            layer.lora_B["default"].weight @ layer.lora_A["default"].weight * 32 / 16
        )
        torch.testing.assert_close(
            native_weights(one.model)["model.language_model.layers.0.mlp.up_proj.weight"], by_hand, atol=1e-6, rtol=0
        )
        torch.testing.assert_close(logits(one.model, batch), adapted, atol=1e-5, rtol=0)
    assert_equal(one.weights(), before)
    assert torch.equal(logits(one.model, batch), adapted)


def test_a_merged_model_needs_no_peft(start, tmp_path: Path):
    one = Learner(start, {"lora": {}})
    one.learn(2)
    folder = one.save(tmp_path) / "model"
    (batch,) = one.batches()
    torch.save((batch.input_ids, batch.features.values, batch.features.mask), tmp_path / "batch.pt")
    script = f"""
import sys
sys.modules["peft"] = None
import torch
from transformers import Qwen3ASRForConditionalGeneration
ids, values, mask = torch.load("{tmp_path}/batch.pt")
model = Qwen3ASRForConditionalGeneration.from_pretrained("{folder}").eval()
with torch.no_grad():
    torch.save(model(input_ids=ids, input_features=values, input_features_mask=mask).logits, "{tmp_path}/logits.pt")
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=120)
    torch.testing.assert_close(torch.load(tmp_path / "logits.pt"), logits(one.model, batch), atol=1e-5, rtol=0)


def test_adapters_stand_on_the_weights_that_the_run_began_with(start, tmp_path: Path):
    check_start(str(start), digest(start))
    other = tmp_path / "other"
    changed = load(start)
    changed.model.lm_head.weight.data += 1
    changed.save(other)
    with pytest.raises(RunError, match="bring the model back that the run began with"):
        check_start(str(other), digest(start))


def test_the_average_is_that_of_the_weights_after_each_step(start):
    one = Learner(start, {"ema": {"decay": 0.3}})
    name = "model.language_model.layers.1.mlp.up_proj.weight"
    expected = one.start[name].double()
    for decay in (2 / 11, 3 / 12, 0.3, 0.3):  # (1 + n) / (10 + n) until that is more than 0.3
        one.learn()
        expected = decay * expected + (1 - decay) * one.weights()[name].double()
    torch.testing.assert_close(one.ema.averages[name].double(), expected, atol=1e-7, rtol=0)
    before, average = one.weights(), one.ema.averages[name].clone()
    with kept(one.model, one.ema):
        assert torch.equal(one.weights()[name], average)
    assert_equal(one.weights(), before)


def test_a_checkpoint_keeps_the_average(start, tmp_path: Path):
    one = Learner(start, {"ema": {"decay": 0.9}, "frozen": ["encoder"]})
    one.learn(3)
    saved = load_file(one.save(tmp_path) / "model" / "model.safetensors")
    for name, weight in one.weights().items():
        assert torch.equal(saved[name], one.ema.averages.get(name, weight)), name


def test_each_layer_learns_at_its_share_of_the_rate(start):
    """AdamW's first step is the rate itself for every number with a gradient."""
    rates = {"encoder": 0.5, "projector": 2.0, "decoder": 1.0, "layer_decay": 0.8}
    one = Learner(start, {"optimizer": {"learning_rate": 1e-3, "weight_decay": 0.0, "rates": rates}})
    one.learn()
    expected = {
        "model.audio_tower.conv2d1.weight": 0.5 * 0.8**2,
        "model.audio_tower.layers.0.fc1.weight": 0.5 * 0.8,
        "model.audio_tower.layers.1.fc1.weight": 0.5,
        "model.audio_tower.ln_post.weight": 0.5,
        "model.multi_modal_projector.linear_1.weight": 2.0,
        "model.language_model.embed_tokens.weight": 0.8**2,
        "model.language_model.layers.0.mlp.up_proj.weight": 0.8,
        "model.language_model.layers.1.mlp.up_proj.weight": 1.0,
        "model.language_model.norm.weight": 1.0,
    }
    for name, share in expected.items():
        change = (one.weights()[name] - one.start[name]).abs().max().item()
        assert change == pytest.approx(1e-3 * share, rel=0.02), name


def test_the_schedule_holds_for_all_rates(start):
    one = Learner(start, {"optimizer": {"rates": {"encoder": 0.1, "layer_decay": 0.5}}})
    shares = sorted({group["share"] for group in one.optimizer.param_groups})
    assert shares == pytest.approx([0.1 / 4, 0.1 / 2, 0.1, 0.25, 0.5, 1.0])
    for step in (0, 5, 50, 99):
        rate = learning_rate(one.settings.optimizer, step=step, num_steps=100)
        parameters.set_rate(one.optimizer, rate)
        assert sorted({group["lr"] for group in one.optimizer.param_groups}) == pytest.approx(
            [rate * share for share in shares]
        )


@pytest.mark.parametrize("ranges", [True, {"encoder": [1, 2]}, {"encoder": True, "decoder": [0, 1]}])
def test_only_the_chosen_layers_are_computed_twice_and_gradients_stay_the_same(start, ranges):
    plain, thrifty = Learner(start, {}), Learner(start, {"gradient_checkpointing": ranges})
    passes: dict[str, int] = {}
    for part in ("encoder", "decoder"):
        for index, layer in enumerate(layers(thrifty.model, part)):
            layer.self_attn.register_forward_pre_hook(
                lambda *_, name=f"{part} {index}": passes.update({name: passes.get(name, 0) + 1})
            )
    for each in (plain, thrifty):
        losses = loss_sums(each.model, each.batches()[0])
        (losses.objective / 100).backward()
    for (name, one), other in zip(thrifty.model.named_parameters(), plain.model.parameters(), strict=True):
        if other.grad is not None:
            torch.testing.assert_close(one.grad, other.grad, atol=1e-6, rtol=0, msg=name)
    chosen = thrifty.settings.gradient_checkpointing
    expected = {
        f"{part} {index}": 2 if within is True or (within and within[0] <= index < within[1]) else 1
        for part, within in (("encoder", chosen.encoder), ("decoder", chosen.decoder))
        for index in range(2)
    }
    assert passes == expected


def test_layers_that_the_model_does_not_have_are_refused(start):
    asks = Training.model_validate({"gradient_checkpointing": {"decoder": [0, 3]}})
    with pytest.raises(RequestError, match=r"gradient_checkpointing\.decoder: asks for layers up to 3.* has 2"):
        parameters.check(asks, describe(start)[0])
    parameters.check(Training.model_validate({"gradient_checkpointing": {"decoder": [0, 2]}}), describe(start)[0])


def test_8bit_without_its_package_is_refused(start, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    asks = Training.model_validate(EIGHT_BIT)
    with pytest.raises(RequestError, match=r"bitsandbytes, which is not installed here; install caspi\[8bit\]"):
        parameters.check(asks, describe(start)[0])
    with pytest.raises(RequestError, match="bitsandbytes"):
        Learner(start, EIGHT_BIT)


def test_8bit_moments_take_a_byte_each_and_those_of_the_embedding_four(start):
    pytest.importorskip("bitsandbytes")
    one, usual = Learner(start, EIGHT_BIT), Learner(start, {})
    for each in (one, usual):
        each.learn(5)
    for name, weight in one.model.named_parameters():
        if weight.requires_grad:
            is_small = weight.numel() < 4096 or "embed_tokens" in name
            assert one.optimizer.state[weight]["state1"].dtype == (torch.float32 if is_small else torch.uint8)
    drift = max((one.weights()[name] - weight).abs().max().item() for name, weight in usual.weights().items())
    assert 0 < drift < 5 * 2e-3  # five steps at the rate


@pytest.mark.parametrize(
    ("training", "said"),
    [
        ({"frozen": ["encoder", "projector", "decoder"]}, "leaves nothing to train"),
        ({"frozen": ["encoder"], "lora": {}}, "name the parts that get some in training.lora.parts"),
        ({"gradient_checkpointing": {"decoder": [4, 2]}}, r"gradient_checkpointing\.decoder: found \[4, 2\]; expected"),
        ({"gradient_checkpointing": {"decodr": True}}, "did you mean decoder"),
        ({"lora": {"parts": []}}, r"training\.lora\.parts"),
        ({"lora": {"dropout": 0.1}}, r"training\.lora\.dropout: unknown"),
        ({"ema": {"decay": 1.0}}, r"training\.ema\.decay"),
        ({"optimizer": {"rates": {"layer_decay": 1.5}}}, r"training\.optimizer\.rates\.layer_decay"),
    ],
)
def test_a_recipe_that_contradicts_itself_is_refused(training, said):
    source = {"kind": "folder", "path": "speech"}
    with pytest.raises(RecipeError, match=said):
        parse_recipe({"name": "odd", "data": {"sources": [source]}, "training": training})


def assert_equal(ones: dict[str, torch.Tensor], others: dict[str, torch.Tensor]) -> None:
    assert ones.keys() == others.keys()
    for name, one in ones.items():
        assert torch.equal(one, others[name]), name
