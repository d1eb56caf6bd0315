"""Whether a run folder may be used: a new run in an empty one, an old run only with what it began with."""

import json
from pathlib import Path
from typing import Any

from caspi.corpus import Corpus
from caspi.errors import RunError
from caspi.model import find
from caspi.model.weights import digest
from caspi.recipe import Recipe, load_recipe

# What changes how a run is done and not what comes of it. Everything else of `model` and `training` must stay.
_FREE = (
    "training.workers",
    "training.batches.max_micro_batch_s",
    "training.batches.max_micro_batch_tokens",
    "training.batches.collation",
    "training.gradient_checkpointing",
    "training.compile",
    "training.sharding",
    "training.validation",
    "training.checkpoints",
    "training.log_every_steps",
    "training.record_utterances",
    "training.cost",
)


def check_output(output: Path, *, resume: bool) -> None:
    """Refuse to mix two runs in one folder.

    Raises:
        RunError: the folder holds a run and `resume` was not asked for, or the reverse.
    """
    holds_run = (output / "run.json").exists()
    if holds_run and not resume:
        raise RunError(f"{output}: holds a run already; give another --output, or --resume to go on with it")
    if resume and not holds_run:
        raise RunError(f"{output}: holds no run to resume")


def check_same_run(recipe: Recipe, corpus: Corpus, output: Path) -> None:
    """Refuse to go on with other data or other settings than the run began with: it would be neither run.

    Raises:
        RunError: naming what differs.
    """
    begun = json.loads((output / "run.json").read_text(encoding="utf-8"))
    fingerprint = begun.get("corpus_fingerprint", corpus.fingerprint)
    if fingerprint != corpus.fingerprint:
        raise RunError(
            f"{output}: this run began with the corpus {fingerprint}, and {corpus.location} is {corpus.fingerprint}; "
            "give the same --corpus, or begin a new run with another --output"
        )
    before, now = (_binding(each) for each in (load_recipe(output / "recipe.yaml"), recipe))
    changed = sorted(key for key in before.keys() | now.keys() if before.get(key) != now.get(key))
    if changed:
        key = changed[0]
        raise RunError(
            f"{output}: this run began with {key}={before.get(key)!r}, and the recipe says {now.get(key)!r}"
            + (f" (and {len(changed) - 1} more: {', '.join(changed[1:4])})" if len(changed) > 1 else "")
            + "; give what it began with, or begin a new run with another --output"
        )


def start_digest(recipe: Recipe, start: str, output: Path, *, resume: bool) -> str | None:
    """What the weights at `start` must hash to on every machine, where checkpoints depend on it.

    Those of a run with adapters hold the adapters and what they merge into, and not the weights below them.

    Raises:
        RunError: the run began with others.
    """
    if not recipe.training.lora:
        return None
    if not resume:
        return digest(find(start))
    begun: str = json.loads((output / "run.json").read_text(encoding="utf-8"))["start_digest"]
    check_start(start, begun)
    return begun


def check_start(start: str, expected: str | None) -> None:
    """Make sure that a run's adapters stand on the weights that it began with. None: there are no adapters.

    Raises:
        RunError: they would not.
    """
    if expected is not None and (found := digest(find(start))) != expected:
        raise RunError(
            f"{start}: its weights hash to {found[:12]}, and the run's adapters were trained beside {expected[:12]}; "
            "bring the model back that the run began with, or begin a new run with another --output"
        )


def _binding(recipe: Recipe) -> dict[str, Any]:
    """Settings that must not change during a run, by dotted key."""
    values = recipe.model_dump(mode="json")
    flat = dict(_flatten({"model": values["model"], "training": values["training"]}))
    return {key: value for key, value in flat.items() if not key.startswith(_FREE)}


def _flatten(values: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    pairs: list[tuple[str, Any]] = []
    for key, value in values.items():
        pairs += _flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else [(f"{prefix}{key}", value)]
    return pairs
