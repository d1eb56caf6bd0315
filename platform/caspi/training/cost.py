"""What a run will take, said before any money is spent: steps, memory, hours and cost, for this model and its likes.

Steps and batches come from the plan that training itself uses, so they are exact. Hours are the FLOPs of all utterances
over what the GPUs do at an assumed MFU, which nobody should believe before a run has shown its own (`train/mfu`).
"""

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from caspi.corpus import Corpus
from caspi.errors import RequestError
from caspi.model import Prompter, build_toy, describe
from caspi.model.flops import ALL_LAYERS, EVERYTHING, NOTHING, Parts, num_parameters, training_flops
from caspi.model.released import SIZES, VOCABULARY, released_config
from caspi.recipe import Recipe
from caspi.recipe.sections import Training
from caspi.text import language_name
from caspi.training import collating, devices
from caspi.training.devices import Gpu
from caspi.training.footprint import GIB, Footprint, footprint
from caspi.training.outlook import num_validations
from caspi.training.parameters import recomputed
from caspi.training.survey import Survey, survey_run
from caspi.training.validation import num_judged

# What is assumed of GPUs, until a run on them says better.
_MFU = {"full": 0.20, "LoRA": 0.16}  # LoRA has many small products beside the large ones
_READ_RTFX = 500  # reading, decoding and augmentation: a third of what a core does, see docs/benchmarks.md
_VALIDATION_RTFX = 200  # transcribing on one GPU
_START_S = 180  # machines, Ray, weights, the first checkpoint


@dataclass(frozen=True, slots=True)
class Variant:
    """A model, and what of it is trained."""

    name: str
    mode: str  # full or LoRA
    config: Any  # transformers.Qwen3ASRConfig
    num_weights: float
    num_trained: float
    trained: Parts  # shares


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a run of one variant takes."""

    variant: Variant
    recomputed: Parts  # shares of layers
    footprint: Footprint
    mfu: float  # at which computing_s is taken
    computing_s: float
    reading_s: float
    validation_s: float
    fits: bool

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
    num_workers = recipe.training.workers.most
    with tempfile.TemporaryDirectory(prefix="caspi-plan-") as folder:
        surveyed = survey_run(
            recipe,
            opened,
            config,
            prompter,
            Path(folder),
            num_workers=num_workers,
            collation=collating.planned(recipe.training),
        )
    validated_s = _validated_s(recipe, opened, surveyed)
    estimates = tuple(
        _fitting(variant, surveyed, recipe.training, known[gpu], mfu, validated_s)
        for variant in _variants(config, lora_rank)
    )
    return CostPlan(surveyed, known[gpu], estimates)


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


def _variants(config: Any, lora_rank: int) -> Iterator[Variant]:
    """The recipe's own model, and the released ones if they have its tokenizer: all of it trained, and LoRA."""
    configs = {"": config}
    if config.text_config.vocab_size == VOCABULARY:
        configs = {size: released_config(size) for size in SIZES}
        own = [size for size, each in configs.items() if _shape(each) == _shape(config)]
        configs = {own[0] if own else "own": config} | configs
    for size, each in configs.items():
        counts = num_parameters(each)
        everything = sum(counts)
        yield Variant(f"{size} full".strip(), "full", each, everything, everything, EVERYTHING)
        encoder, decoder = (lora_rank * width for width in _adapted_widths(each))
        shares = Parts(0, encoder / counts.encoder, 0, decoder / counts.decoder, 0)
        adapters = encoder + decoder
        name = f"{size} LoRA {lora_rank}".strip()
        yield Variant(name, "LoRA", each, everything + adapters, adapters, shares)


def _shape(config: Any) -> tuple[int, ...]:
    audio, text = config.audio_config, config.text_config
    return audio.d_model, audio.encoder_layers, text.hidden_size, text.num_hidden_layers


def _adapted_widths(config: Any) -> tuple[int, int]:
    """Inputs and outputs of all products in the layers of encoder and decoder: what a rank of LoRA adds to each."""
    audio, text = config.audio_config, config.text_config
    width, hidden = audio.d_model, text.hidden_size
    queries, keys = text.num_attention_heads * text.head_dim, text.num_key_value_heads * text.head_dim
    encoder = audio.encoder_layers * (8 * width + 2 * (width + audio.encoder_ffn_dim))
    decoder = text.num_hidden_layers * (
        2 * (hidden + queries) + 2 * (hidden + keys) + 3 * (hidden + text.intermediate_size)
    )
    return encoder, decoder


def _fitting(
    variant: Variant, surveyed: Survey, training: Training, gpu: Gpu, mfu: float | None, validated_s: float
) -> Estimate:
    """As the recipe says; with layers recomputed if it does not fit otherwise."""
    asked = recomputed(training.gradient_checkpointing, variant.config)
    estimate = _estimate(variant, surveyed, training, asked, gpu, mfu, validated_s)
    if estimate.fits or asked == ALL_LAYERS:
        return estimate
    return _estimate(variant, surveyed, training, ALL_LAYERS, gpu, mfu, validated_s)


def _estimate(
    variant: Variant,
    surveyed: Survey,
    training: Training,
    again: Parts,
    gpu: Gpu,
    mfu: float | None,
    validated_s: float,
) -> Estimate:
    needed = footprint(
        variant.config,
        surveyed.largest,
        num_weights=variant.num_weights,
        num_trained=variant.num_trained,
        precision="fp32" if training.precision == "fp32" else "bf16",
        recomputed=again,
    )
    flops, done = (
        training_flops(variant.config, surveyed.work, trained=variant.trained, recomputed=each)
        for each in (NOTHING, again)
    )
    # What is computed twice takes its time and is no use.
    share = mfu if mfu is not None else _MFU[variant.mode] * flops / done
    return Estimate(
        variant=variant,
        recomputed=again,
        footprint=needed,
        mfu=share,
        computing_s=flops / (gpu.peak_flops * share * surveyed.num_workers),
        reading_s=surveyed.audio_s / (_READ_RTFX * surveyed.num_workers),
        validation_s=validated_s / (_VALIDATION_RTFX * surveyed.num_workers),
        fits=needed.total <= gpu.memory_gib * GIB,
    )


def _validated_s(recipe: Recipe, corpus: Corpus, surveyed: Survey) -> float:
    """Audio of all validations."""
    mean_s = surveyed.audio_s / surveyed.num_utterances
    return num_judged(corpus, recipe) * mean_s * num_validations(recipe.training, surveyed.num_steps)
