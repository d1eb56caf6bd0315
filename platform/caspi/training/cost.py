"""What a run will take, said before any money is spent: steps, memory, hours and cost, for this model and its likes.

Steps and batches come from the plan that training itself uses, so they are exact. Hours are the FLOPs of all utterances
over what the GPUs do at an assumed MFU, which nobody should believe before a run has shown its own (`train/mfu`).
"""

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from caspi.corpus import Corpus
from caspi.errors import RequestError
from caspi.model import Prompter, build_toy, describe
from caspi.model.flops import ALL_LAYERS, NOTHING, Parts, training_flops
from caspi.model.released import SIZES, VOCABULARY, released_config
from caspi.recipe import Recipe
from caspi.recipe.learning import PARTS, Lora
from caspi.recipe.sections import Training
from caspi.text import language_name
from caspi.training import collating, devices
from caspi.training.bounds import Bounds
from caspi.training.devices import Gpu
from caspi.training.footprint import GIB, Footprint, Learning, Load, footprint
from caspi.training.outlook import num_validations
from caspi.training.parameters import recomputed
from caspi.training.sample import NARROWEST_S, RESERVES, Sample
from caspi.training.survey import Survey, Surveyor
from caspi.training.validation import num_judged

# What is assumed of GPUs, until a run on them says better.
_MFU = 0.20
_LORA_MFU = 0.16  # many small products beside the large ones
_READ_RTFX = 500  # reading, decoding and augmentation: a third of what a core does, see docs/benchmarks.md
_VALIDATION_RTFX = 200  # transcribing on one GPU
_START_S = 180  # machines, Ray, weights, the first checkpoint


@dataclass(frozen=True, slots=True)
class Variant:
    """A model, and the way in which it learns."""

    name: str
    config: Any  # transformers.Qwen3ASRConfig
    training: Training
    learning: Learning

    @classmethod
    def of(cls, size: str, config: Any, training: Training) -> "Variant":
        learning = Learning.of(config, training, num_workers=training.workers.most)
        return cls(f"{size} {_way(training)}".strip(), config, training, learning)


@dataclass(frozen=True, slots=True)
class Placement:
    """How a variant lies in the memory of a GPU."""

    recomputed: Parts  # shares of layers
    bounds: Bounds  # of micro-batches
    footprint: Footprint  # with the largest of them
    fits: bool


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a run of one variant takes."""

    variant: Variant
    placement: Placement
    mfu: float  # at which computing_s is taken
    computing_s: float
    reading_s: float
    validation_s: float

    @property
    def steps_s(self) -> float:
        """A thread of each worker reads while the device computes: the slower of the two counts."""
        return max(self.computing_s, self.reading_s)

    @property
    def hours(self) -> float:
        return (self.steps_s + self.validation_s + _START_S) / 3600


@dataclass(frozen=True, slots=True)
class CostPlan:
    """All that `caspi plan` says for GPUs."""

    survey: Survey
    gpu: Gpu
    estimates: tuple[Estimate, ...]  # the recipe's own first

    def cost(self, estimate: Estimate, price_per_hour: float) -> float:
        """Of the whole run, at the price of one GPU."""
        return estimate.hours * price_per_hour * self.survey.num_workers


def plan_cost(
    recipe: Recipe,
    corpus: str | Path,
    *,
    gpu: str,
    mfu: float | None = None,
    lora_rank: int = 16,
) -> CostPlan:
    """Plan a run on a kind of GPU.

    Args:
        gpu: a name of `devices.gpus()`.
        mfu: instead of what is assumed: what a run like it has shown.

    Raises:
        RequestError: such a GPU, corpus or model is not known.
    """
    known = devices.gpus()
    if gpu not in known:
        raise RequestError(f"--gpu {gpu}: not known; expected cpu or one of {', '.join(known)}")
    opened = Corpus.open(corpus)
    config, prompter = _describe_start(recipe, opened)
    device, num_workers = known[gpu], recipe.training.workers.most
    variants = list(_variants(config, recipe.training, lora_rank))
    with tempfile.TemporaryDirectory(prefix="caspi-plan-") as folder:
        surveyor = Surveyor.of_run(
            recipe,
            opened,
            prompter,
            Path(folder),
            num_workers=num_workers,
            collation=collating.planned(recipe.training),
        )
        placements = [_place(variant, Sample(surveyor), device) for variant in variants]
        surveyed = surveyor.survey(config, placements[0].bounds)
    validated_s = _validated_s(recipe, opened, surveyed)
    estimates = tuple(
        _estimate(variant, placement, surveyed, device, mfu, validated_s)
        for variant, placement in zip(variants, placements, strict=True)
    )
    return CostPlan(surveyed, device, estimates)


def _describe_start(recipe: Recipe, corpus: Corpus) -> tuple[Any, Prompter]:
    """The config and the prompts of the model that a run would start from. Weights are not needed."""
    if recipe.model.init != "toy":
        from caspi import tracking

        return describe(tracking.locate_model(recipe.model.init))
    texts = corpus.read_table("train", ["text"])["text"].to_pylist()
    model, processor = build_toy(
        recipe.model.toy, texts=texts, language=language_name(recipe.data.language), seed=recipe.training.seed
    )
    return model.config, Prompter(processor.tokenizer)


def _variants(config: Any, training: Training, lora_rank: int) -> Iterator[Variant]:
    """The recipe's own first; then all weights and LoRA, of its model and of the released ones with its tokenizer.

    What the recipe says of averages, moments and recomputing holds for all.
    """
    configs = {"": config}
    if config.text_config.vocab_size == VOCABULARY:
        configs = {size: released_config(size) for size in SIZES}
        own = [size for size, each in configs.items() if _shape(each) == _shape(config)]
        configs = {own[0] if own else "own": config} | configs
    full = training.model_copy(update={"lora": None, "frozen": ()})
    adapted = full.model_copy(update={"lora": Lora(rank=lora_rank), "sharding": "none"})
    ways = {_way(each): each for each in (full, adapted)}
    for place, (size, each) in enumerate(configs.items()):
        own_way = {_way(training): training} if place == 0 else {}
        for way in (own_way | ways).values():
            yield Variant.of(size, each, way)


def _way(training: Training) -> str:
    """What is trained, in a few words."""
    if training.lora:
        where = "" if training.lora.parts == PARTS else f" of {'+'.join(training.lora.parts)}"
        return f"LoRA {training.lora.rank}{where}"
    return f"without {'+'.join(training.frozen)}" if training.frozen else "full"


def _shape(config: Any) -> tuple[int, ...]:
    audio, text = config.audio_config, config.text_config
    return audio.d_model, audio.encoder_layers, text.hidden_size, text.num_hidden_layers


def _place(variant: Variant, sample: Sample, gpu: Gpu) -> Placement:
    """As the recipe says; with layers recomputed if it does not fit otherwise."""
    asked = recomputed(variant.training.gradient_checkpointing, variant.config)
    placement = _placed(variant, sample, gpu, asked)
    if placement.fits or asked == ALL_LAYERS:
        return placement
    return _placed(variant, sample, gpu, ALL_LAYERS)


def _placed(variant: Variant, sample: Sample, gpu: Gpu, again: Parts) -> Placement:
    def at(load: np.ndarray) -> Footprint:
        return footprint(
            variant.config,
            Load(*map(int, load)),
            variant.learning,
            precision="fp32" if variant.training.precision == "fp32" else "bf16",
            recomputed=again,
        )

    def needs(loads: np.ndarray) -> np.ndarray:
        needed = [at(load) for load in loads]
        return reserve.with_margin(needed[0].base, np.array([each.growth for each in needed]))

    limit, reserve = gpu.memory_gib * GIB, RESERVES["cuda"]
    bounds = Bounds.fixed(variant.training.batches)
    if bounds is None:
        bounds = sample.widest(needs, reserve.usable(limit)) or Bounds(NARROWEST_S)
    _, loads = sample.micro_batches(bounds)
    needed = at(loads[needs(loads).argmax()])
    return Placement(again, bounds, needed, fits=needed.total <= limit)


def _estimate(
    variant: Variant, placement: Placement, surveyed: Survey, gpu: Gpu, mfu: float | None, validated_s: float
) -> Estimate:
    flops, done = (
        training_flops(variant.config, surveyed.work, trained=variant.learning.trained, recomputed=each)
        for each in (NOTHING, placement.recomputed)
    )
    # What is computed twice takes its time and is no use.
    share = mfu if mfu is not None else (_LORA_MFU if variant.training.lora else _MFU) * flops / done
    return Estimate(
        variant=variant,
        placement=placement,
        mfu=share,
        computing_s=flops / (gpu.peak_flops * share * surveyed.num_workers),
        reading_s=surveyed.audio_s / (_READ_RTFX * surveyed.num_workers),
        validation_s=validated_s / (_VALIDATION_RTFX * surveyed.num_workers),
    )


def _validated_s(recipe: Recipe, corpus: Corpus, surveyed: Survey) -> float:
    """Audio of all validations."""
    mean_s = surveyed.audio_s / surveyed.num_utterances
    return num_judged(corpus, recipe) * mean_s * num_validations(recipe.training, surveyed.num_steps)
