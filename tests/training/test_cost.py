"""What a run will take: batches as the plan makes them, memory as autograd keeps it, hours and cost by arithmetic."""

import shutil
import weakref
from collections.abc import Callable
from dataclasses import astuple
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from caspi.corpus import Corpus
from caspi.errors import RequestError
from caspi.model import Batch, Loaded, build_toy, collate, load_prompter, loss_sums, num_audio_tokens
from caspi.model.flops import ALL_LAYERS, Workload, empty_model, num_parameters, training_flops
from caspi.model.released import SIZES, released_config
from caspi.recipe import Recipe
from caspi.recipe.sections import Collation, Toy, Training
from caspi.training import parameters, train
from caspi.training.bounds import Bounds
from caspi.training.context import ContextMaker
from caspi.training.cost import CostPlan, plan_cost
from caspi.training.feed import BatchMaker
from caspi.training.footprint import GIB, Learning, Load, activations, footprint
from caspi.training.lengths import LengthIndex
from caspi.training.measuring import measure
from caspi.training.plan import plan_run
from caspi.training.plan_report import of_gpu, of_machine
from caspi.training.reading import ShardReader
from caspi.training.survey import Surveyor
from tests.training.whole_runs import changed, lines

TEXT = "ילד הולך הביתה עכשיו"
NO_AUGMENTATION = {"speed": 0, "noise": {"share": 0}, "frequency_masks": 0}


# --- memory ---------------------------------------------------------------------------------------------------------


def toy(**sizes: int) -> Loaded:
    return Loaded.wrap(*build_toy(Toy(vocabulary=400, **sizes), texts=[TEXT] * 20, language="Hebrew", seed=1))


def batch_of(loaded: Loaded, num_utterances: int) -> Batch:
    """Eight seconds each: one window of the encoder, no padding."""
    clips = [np.random.default_rng(0).standard_normal(8 * 16000).astype(np.float32)] * num_utterances
    example = loaded.prompter.example(TEXT, num_audio_tokens=num_audio_tokens(len(clips[0])), language="Hebrew")
    return collate([example] * num_utterances, clips, pad_id=loaded.prompter.pad_id)


def kept_bytes(loaded: Loaded, batch: Batch, *, autocast: bool) -> int:
    """What autograd keeps of a forward pass besides the weights, each piece of memory once."""
    weights = {weight.untyped_storage().data_ptr() for weight in loaded.model.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage
        return tensor

    with (
        torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
        torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast),
    ):
        losses = loss_sums(loaded.model, batch)
    total = sum(storage.nbytes() for storage in kept.values())
    assert losses.objective.requires_grad
    return total


def counted_over_kept(loaded: Loaded, training: Training, precision: str) -> float:
    """Bytes that two more utterances take by our arithmetic, as a share of what autograd keeps for them."""
    config = loaded.model.config
    parameters.prepare(loaded.model, training)
    parameters.groups(loaded.model, training.optimizer)
    few, many = batch_of(loaded, 2), batch_of(loaded, 4)
    kept = [kept_bytes(loaded, batch, autocast=precision == "bf16") for batch in (few, many)]
    element = 2 if precision == "bf16" else 4
    logits = (many.num_supervised - few.num_supervised) * element * config.text_config.vocab_size
    trained = Learning.of(config, training).trained
    counted = [
        activations(config, Load(batch.num_tokens, 104 * batch.num_utterances, 0), precision=precision, trained=trained)
        for batch in (few, many)
    ]
    return (counted[1] - counted[0]) / (kept[1] - kept[0] - logits)


@pytest.mark.parametrize("sizes", [{}, {"encoder_layers": 6}, {"decoder_width": 256, "decoder_layers": 5}])
@pytest.mark.parametrize(("precision", "bound"), [("fp32", 0.05), ("bf16", 0.15)])
def test_activations_are_what_autograd_keeps(sizes: dict[str, int], precision: str, bound: float):
    """In bf16 the CPU keeps the encoder's norms in bf16 where GPUs have fp32, so the formula is a little above it."""
    assert counted_over_kept(toy(**sizes), Training(), precision) == pytest.approx(1, abs=bound)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(
    ("way", "most"),
    [
        ({"frozen": ["encoder"]}, 1.05),
        ({"frozen": ["encoder", "projector"]}, 1.05),
        ({"frozen": ["decoder"]}, 1.35),
        ({"lora": {"rank": 4}}, 1.2),
        ({"lora": {"rank": 4, "parts": ["decoder"]}}, 1.2),
    ],
)
def test_what_does_not_learn_is_counted_as_autograd_keeps_it_or_a_little_more(
    way: dict[str, Any], most: float, precision: str
):
    assert 0.95 < counted_over_kept(toy(), Training.model_validate(way), precision) < most


class LiveTensors(TorchDispatchMode):
    """The most bytes that tensors made within the block took together, what lives for a moment included."""

    def __init__(self) -> None:
        super().__init__()
        self.peak = self._now = 0
        self._sizes: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if not isinstance(tensor, torch.Tensor) or tensor.is_sparse:  # of which the parts are counted
                continue
            if (storage := tensor.untyped_storage())._cdata not in self._sizes:
                self._sizes[storage._cdata] = storage.nbytes()
                self._now += storage.nbytes()
                self.peak = max(self.peak, self._now)
                weakref.finalize(storage, self._drop, storage._cdata)
        return made

    def _drop(self, key: int) -> None:
        self._now -= self._sizes.pop(key)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(
    ("sizes", "way"),
    [
        ({}, {}),
        ({"decoder_width": 256, "decoder_layers": 6, "encoder_width": 256, "conv_channels": 32}, {}),
        ({"encoder_layers": 6, "decoder_layers": 6}, {"lora": {"rank": 4}}),
        ({"encoder_layers": 6}, {"frozen": ["encoder"]}),
    ],
)
def test_memory_is_counted_within_a_fifth(sizes: dict[str, int], way: dict[str, Any], precision: str):
    """Against all tensors of a forward and backward pass; of six more utterances, as weights are counted apart."""
    loaded, training = toy(**sizes), Training.model_validate(way)
    parameters.prepare(loaded.model, training)
    learns, counted, lived = Learning.of(loaded.model.config, training), [], []
    for batch in (batch_of(loaded, 2), batch_of(loaded, 8)):
        with LiveTensors() as live, torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bf16"):
            loss_sums(loaded.model, batch).objective.backward()
        lived.append(live.peak)
        load = Load.of_batch(loaded.model.config, batch, with_alignment=False)
        counted.append(footprint(loaded.model.config, load, learns, precision=precision).growth)
    assert (counted[1] - counted[0]) / (lived[1] - lived[0]) == pytest.approx(1, abs=0.2)


def test_checkpointing_keeps_the_inputs_of_layers_and_one_layer():
    config, load = released_config("1.7B"), Load(1400, 780, 300)
    whole = activations(config, load, precision="bf16")
    recomputed = activations(config, load, precision="bf16", recomputed=ALL_LAYERS)
    assert recomputed < 0.25 * whole


@pytest.mark.parametrize(("size", "millions"), [("1.7B", 2038), ("0.6B", 782)])
def test_released_sizes_have_their_known_numbers_of_weights(size: str, millions: int):
    assert sum(num_parameters(released_config(size))) == pytest.approx(millions * 1e6, rel=1e-3)


def learning(config: Any, **training: Any) -> Learning:
    return Learning.of(config, Training.model_validate(training))


def test_full_fine_tuning_of_the_large_model_takes_16_bytes_a_weight_and_a_copy():
    """33 GB for weights, gradients and AdamW."""
    config = released_config("1.7B")
    weights = sum(num_parameters(config))
    needed = footprint(config, Load(0, 0, 0), learning(config))
    assert needed.states + needed.weights == pytest.approx(18 * weights, rel=1e-3)  # biases of keys are not trained
    assert 16 * weights == pytest.approx(32.6e9, rel=0.01)


@pytest.mark.parametrize("size", SIZES)
def test_lora_is_counted_at_every_product(size: str):
    config = released_config(size)
    adapted = learning(config, lora={"rank": 16})
    products = [
        module.in_features + module.out_features
        for name, module in empty_model(config).named_modules()
        if isinstance(module, torch.nn.Linear) and name != "lm_head"
    ]
    assert adapted.num_trained == 16 * sum(products)
    assert adapted.num_weights == sum(num_parameters(config)) + adapted.num_trained


def test_sharded_layers_are_a_share_of_each_worker():
    config = released_config("1.7B")
    alone, shared = (Learning.of(config, Training(sharding="full"), num_workers=num_workers) for num_workers in (1, 8))
    around = 4 * config.text_config.vocab_size * config.text_config.hidden_size
    layers = sum(num_parameters(config)) * 4 - around
    assert shared.states_bytes == pytest.approx(3 * (around + layers / 8), rel=0.04)
    # Besides its share a worker holds two layers' weights and two layers' gradients: of the decoder's 28, say.
    gathered = shared.weights_bytes - shared.states_bytes / 3
    assert gathered == pytest.approx(alone.weights_bytes - alone.states_bytes / 3, rel=1e-3)
    assert gathered == pytest.approx(4 * layers / 28, rel=0.25)


def test_averages_take_four_bytes_and_moments_in_eight_bits_two():
    config = released_config("0.6B")
    plain, averaged = learning(config), learning(config, ema={"decay": 0.999})
    assert averaged.states_bytes - plain.states_bytes == 4 * plain.num_trained
    embedding = config.text_config.vocab_size * config.text_config.hidden_size
    eight_bit = learning(config, optimizer={"states": "8bit"})
    others = plain.num_trained - embedding
    assert eight_bit.states_bytes == pytest.approx(4 * plain.num_trained + 8 * embedding + 2 * others, rel=0.02)


# --- a run ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("collation", ["packed", "bucketed"])
def test_the_survey_is_what_training_will_compute(
    recipe: Recipe, corpus: Corpus, toy_model: Path, tmp_path: Path, collation: Collation
):
    """Against every batch that the run would make, where augmentation and contexts change no length."""
    plain = changed(recipe, augmentation=NO_AUGMENTATION, context={"share": 0}, alignment_weight=1.0)
    training, config = plain.training, toy().model.config
    prompter = load_prompter(toy_model)
    index = LengthIndex.build(corpus, prompter, tmp_path / "lengths")
    plans = plan_run(index, training)
    bounds = Bounds.fixed(training.batches)
    surveyor = Surveyor(plans, training, 2, num_prompt_tokens=len(prompter.prompt(0)), collation=collation)
    found = surveyor.survey(config, bounds)
    maker = BatchMaker(
        reader=ShardReader.of_index(corpus, index, max_open_shards=8),
        prompter=prompter,
        augmentation=training.augmentation,
        context=ContextMaker(training.context, prompter),
        seed=training.seed,
        collation=collation,
    )
    bound_s = training.batches.max_micro_batch_s
    batches = [
        maker.make(group, epoch=epoch)
        for epoch, plan in enumerate(plans)
        for step in range(plan.num_steps)
        for rank in (0, 1)
        for group in plan.micro_batches(step, rank=rank, world_size=2, max_micro_batch_s=bound_s, collation=collation)
    ]
    works = [Workload.of_batch(config, batch, with_alignment=True) for batch in batches]
    assert found.num_steps == len(found.step_work) == sum(plan.num_steps for plan in plans)
    assert found.num_micro_batches == len(batches)
    assert found.num_utterances == sum(batch.num_utterances for batch in batches)
    assert found.num_positions == sum(batch.num_tokens for batch in batches)
    assert astuple(found.work) == pytest.approx(astuple(sum(works, Workload())))
    assert found.largest == Load(
        max(batch.num_tokens for batch in batches),
        max(int(work.audio_tokens) for work in works),
        max(int(work.logits) for work in works),
        max(max(batch.lengths) for batch in batches),
    )
    assert found.packing_efficiency == 1 if collation == "packed" else 0.5 < found.packing_efficiency < 1


def test_augmentation_and_contexts_make_the_largest_batch_larger(
    recipe: Recipe, corpus: Corpus, toy_model: Path, tmp_path: Path
):
    prompter = load_prompter(toy_model)
    index = LengthIndex.build(corpus, prompter, tmp_path / "lengths")
    plain = changed(recipe, augmentation=NO_AUGMENTATION, context={"share": 0}).training
    ours, theirs = (
        Surveyor(plan_run(index, each), each, num_workers=1, num_prompt_tokens=18)
        .survey(toy().model.config, Bounds.fixed(each.batches))
        .largest
        for each in (recipe.training, plain)
    )
    assert ours.positions > theirs.positions


@pytest.fixture(scope="module")
def large(
    recipe: Recipe, material: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Recipe, Path]:
    """A recipe for the released 1.7B, of which there is everything but the weights."""
    folder = tmp_path_factory.mktemp("large") / "model"
    shutil.copytree(material("qwen3-asr-tokenizer"), folder)
    folder.chmod(0o755)
    released_config("1.7B").save_pretrained(folder)
    values = recipe.model_dump(mode="json")
    values["model"]["init"] = str(folder)
    values["training"]["workers"] = {"num_workers": 8, "use_gpu": True}
    return Recipe.model_validate(values), folder


@pytest.fixture(scope="module")
def planned(large: tuple[Recipe, Path], corpus: Corpus) -> CostPlan:
    return plan_cost(large[0], corpus.path, gpu="a100-40")


def test_a_plan_has_the_recipes_model_first_and_the_other_size_full_and_lora(planned: CostPlan):
    names = [estimate.variant.name for estimate in planned.estimates]
    assert names == ["1.7B full", "1.7B LoRA 16", "0.6B full", "0.6B LoRA 16"]
    assert planned.survey.num_workers == 8


def test_hours_are_flops_over_peak_and_mfu(planned: CostPlan):
    estimate = planned.estimates[0]
    variant = estimate.variant
    flops = training_flops(variant.config, planned.survey.work, trained=variant.learning.trained)
    assert estimate.computing_s == pytest.approx(flops / (312e12 * 8 * estimate.mfu))
    assert estimate.steps_s == max(estimate.computing_s, estimate.reading_s)
    assert estimate.hours * 3600 > estimate.steps_s + estimate.validation_s


def test_a_shown_mfu_and_price_replace_the_assumed_ones(large: tuple[Recipe, Path], corpus: Corpus):
    slow = plan_cost(large[0], corpus.path, gpu="a100-40", mfu=1e-9)
    half = plan_cost(large[0], corpus.path, gpu="a100-40", mfu=0.5e-9)
    assert half.estimates[0].hours > slow.estimates[0].hours
    assert half.estimates[0].computing_s == pytest.approx(2 * slow.estimates[0].computing_s)
    assert slow.cost(slow.estimates[0], 3.0) == pytest.approx(3.0 * 8 * slow.estimates[0].hours)
    said = of_gpu(slow, price_per_hour=3.0)
    assert "3.00 cost (as given)" in said
    assert "spot" not in said


def test_lora_takes_less_memory_and_less_time(planned: CostPlan):
    full, lora = planned.estimates[:2]
    assert lora.placement.footprint.total < 0.5 * full.placement.footprint.total
    assert lora.variant.learning.num_trained < 0.02 * full.variant.learning.num_trained
    works = [
        training_flops(each.variant.config, planned.survey.work, trained=each.variant.learning.trained)
        for each in (full, lora)
    ]
    assert works[1] < 0.75 * works[0]


def test_what_does_not_fit_is_planned_with_layers_recomputed_and_may_still_not_fit(
    large: tuple[Recipe, Path], corpus: Corpus
):
    small = plan_cost(large[0], corpus.path, gpu="l4")
    full = small.estimates[0]
    assert full.placement.recomputed == ALL_LAYERS and not full.placement.fits
    assert full.placement.footprint.total > 35 * GIB
    assert {estimate.variant.name for estimate in small.estimates if estimate.placement.fits} >= {
        "0.6B full",
        "0.6B LoRA 16",
    }
    said = of_gpu(small, price_per_hour=None).splitlines()
    (row,) = [line for line in said if line.startswith("1.7B full")]
    assert row.split()[2:10] == [
        "2,038",
        "M",
        "2,038.0",
        "M",
        "all",
        "60",
        f"{full.placement.footprint.total / GIB:.1f}",
        "no",
    ]


@pytest.mark.parametrize(
    ("way", "name"),
    [
        ({"lora": {"rank": 32, "parts": ["decoder"]}, "gradient_checkpointing": True}, "LoRA 32 of decoder"),
        ({"frozen": ["encoder"], "ema": {"decay": 0.99}}, "without encoder"),
    ],
)
def test_the_first_row_is_the_recipes_own_way(recipe: Recipe, corpus: Corpus, way: dict[str, Any], name: str):
    plan = plan_cost(changed(recipe, **way), corpus.path, gpu="l4")
    assert [estimate.variant.name for estimate in plan.estimates] == [name, "full", "LoRA 16"]
    own, full, _ = plan.estimates
    assert own.variant.learning.num_trained < full.variant.learning.num_trained
    assert own.placement.footprint.activations < full.placement.footprint.activations


def test_a_toy_is_planned_with_its_own_tokenizer_and_no_other_size(recipe: Recipe, corpus: Corpus):
    plan = plan_cost(recipe, corpus.path, gpu="l4")
    assert [estimate.variant.name for estimate in plan.estimates] == ["full", "LoRA 16"]
    assert "examples of 20" in of_gpu(plan, price_per_hour=None)


def test_a_gpu_that_is_not_known_is_refused(recipe: Recipe, corpus: Corpus):
    with pytest.raises(RequestError, match=r"--gpu v100: not known; expected cpu or one of a100-40, "):
        plan_cost(recipe, corpus.path, gpu="v100")


def test_this_machine_is_measured_by_a_few_steps(recipe: Recipe, corpus: Corpus, ray_2_cpus: None):
    measured = measure(recipe, corpus.path, num_steps=4)
    assert (measured.speed.num_workers, measured.speed.first) == (2, 3)
    assert len(measured.speed.seconds) == 5  # the wish to stop comes with the step after
    assert measured.steps_s > sum(measured.speed.seconds)
    assert measured.validations_s == pytest.approx(4 * measured.speed.validation_s)
    said = of_machine(measured, price_per_hour=36000.0)
    assert f"{measured.survey.num_steps} steps of" in said
    assert f"{measured.cost(36000.0):,.2f} at 36,000.00 a worker" in said.replace("36000.00", "36,000.00")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_measured_plan_comes_true(recipe: Recipe, corpus: Corpus, uri: str, ray_2_cpus: None, tmp_path: Path):
    """The figures of docs/benchmarks.md; the bound is for machines that do other things meanwhile."""
    longer = changed(
        recipe, epochs=60, log_every_steps=10, checkpoints={"every_steps": 400}, validation={"every_steps": 400}
    )
    planned = measure(longer, corpus.path)
    train(longer, corpus=corpus.path, output=tmp_path / "run")
    steps = [line for line in lines(tmp_path / "run") if line["step"] % 10 == 0]
    taken_s = sum(line["train/step_s"] for line in steps) / len(steps) * planned.survey.num_steps
    print(f"steps: planned {planned.steps_s:.1f} s, taken {taken_s:.1f} s: {planned.steps_s / taken_s:.2f}")
    assert 0.5 < planned.steps_s / taken_s < 2
