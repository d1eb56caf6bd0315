"""Opening and saving models in the native layout, never with a silent surprise."""

import contextlib
import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import Qwen3ASRForConditionalGeneration, Qwen3ASRProcessor
from transformers.utils import logging as transformers_logging

from caspi.errors import ModelError
from caspi.model.prompt import Prompter

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Loaded:
    """A model that is ready to use, with what belongs to it."""

    model: Any  # transformers.Qwen3ASRForConditionalGeneration
    processor: Any  # transformers.Qwen3ASRProcessor
    prompter: Prompter

    @classmethod
    def wrap(cls, model: torch.nn.Module, processor: Qwen3ASRProcessor) -> "Loaded":
        """Check that model and tokenizer belong together.

        Raises:
            ModelError: the tokenizer is not Qwen3-ASR's, pads with its end of turn, or does not fit the embedding.
        """
        prompter = Prompter(processor.tokenizer)
        pad, end = prompter.pad_id, prompter.end_of_turn_id
        embedding = model.get_input_embeddings()  # type: ignore[operator]
        if len(processor.tokenizer) > embedding.num_embeddings:
            raise ModelError(
                f"the tokenizer has {len(processor.tokenizer)} tokens, the model {embedding.num_embeddings}: "
                "they are not of the same checkpoint"
            )
        # The released config names the end of turn as pad; whoever masks by that id trains a model that never stops.
        model.config.pad_token_id = pad  # type: ignore[union-attr]
        model.generation_config.pad_token_id = pad  # type: ignore[union-attr]
        model.generation_config.eos_token_id = [end, pad]  # type: ignore[union-attr]
        return cls(model, processor, prompter)

    def save(self, folder: Path) -> None:
        """Write native safetensors, config, tokenizer and processor."""
        with _quietly():
            self.model.save_pretrained(folder)
            self.processor.save_pretrained(folder)


def load(model: str | Path, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> Loaded:
    """Open a native checkpoint: a folder, or a Hub id.

    Raises:
        ModelError: not there, not Qwen3-ASR, in the original (legacy) layout, or with missing or unexpected weights.
    """
    _check_config(model)
    try:
        with _quietly():
            processor = Qwen3ASRProcessor.from_pretrained(str(model))
            network, report = Qwen3ASRForConditionalGeneration.from_pretrained(
                str(model), dtype=dtype, output_loading_info=True
            )
    except (OSError, ValueError, SafetensorError) as error:
        raise ModelError(f"{model}: cannot be loaded as a Qwen3-ASR model: {error}") from error
    _check_weights(str(model), report)
    return Loaded.wrap(network.to(device).eval(), processor)


def load_prompter(model: str | Path) -> Prompter:
    """The prompts of a native checkpoint, without its weights.

    Raises:
        ModelError: not there, not Qwen3-ASR, or in the original (legacy) layout.
    """
    _check_config(model)
    try:
        with _quietly():
            return Prompter(Qwen3ASRProcessor.from_pretrained(str(model)).tokenizer)
    except (OSError, ValueError) as error:
        raise ModelError(f"{model}: its tokenizer cannot be loaded: {error}") from error


def _check_config(model: str | Path) -> None:
    """Refuse what transformers would half accept: the original layout loads as noise, with a report nobody reads."""
    folder = Path(model)
    if not folder.exists():
        if str(model).startswith(("/", "./", "../")) or str(model).count("/") != 1:
            raise ModelError(f"{model}: no such model; expected a folder, a Hub id OWNER/NAME or models:/NAME@alias")
        return
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{model}: not a model folder: no readable config.json") from error
    if "thinker_config" in config:
        raise ModelError(
            f"{model}: this is Qwen3-ASR's original layout, and Caspi reads the native one; "
            "take the checkpoint whose name ends in -hf"
        )
    if config.get("model_type") != "qwen3_asr":
        raise ModelError(f"{model}: model_type is {config.get('model_type')!r}; expected 'qwen3_asr'")


def _check_weights(name: str, report: dict[str, Any]) -> None:
    """A missing weight would be random, an unexpected one ignored."""
    problems = [
        f"{kind.replace('_', ' ')}: {', '.join(sorted(map(str, report[kind]))[:5])}"
        + (f" and {len(report[kind]) - 5} more" if len(report[kind]) > 5 else "")
        for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")
        if report.get(kind)
    ]
    if problems:
        raise ModelError(f"{name}: the weights do not fit the model; " + "; ".join(problems))


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Without transformers' bars and hints; what matters is checked above and raised."""
    verbosity, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()
