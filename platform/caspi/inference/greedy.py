"""The engine `transformers`: the model's own modules in this process."""

from pathlib import Path

from caspi.inference.engine import BatchEngine
from caspi.inference.transcriber import Transcriber
from caspi.recipe.sections import Inference


def open_greedy(model: str | Path, *, limits: Inference) -> BatchEngine:
    """An engine with a model on this machine's device."""
    return BatchEngine(Transcriber.load(model, limits=limits), max_batch_s=limits.max_batch_s)
