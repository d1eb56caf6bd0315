"""Opening models in either layout and saving them in the native one, never with a silent surprise."""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from transformers import Qwen3ASRForConditionalGeneration, Qwen3ASRProcessor
from transformers.utils import logging as transformers_logging

from caspi.errors import ModelError
from caspi.model.checkpoint import Checkpoint, read_config, read_processor
from caspi.model.prompt import Prompter
from caspi.model.weights import make_readable

_SMALL_FILES = ["*.json", "*.jinja", "merges.txt"]
_HUB_FILES = ["*.safetensors", *_SMALL_FILES]  # never a pickle


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
            ModelError: the tokenizer is not Qwen3-ASR's, pads with its end of turn, or is of another checkpoint.
        """
        prompter = Prompter.matching(processor.tokenizer, model.config)
        pad, end = prompter.pad_id, prompter.end_of_turn_id
        # The released config names the end of turn as pad; whoever masks by that id trains a model that never stops.
        model.config.pad_token_id = pad  # type: ignore[union-attr]
        model.generation_config.pad_token_id = pad  # type: ignore[union-attr]
        model.generation_config.eos_token_id = [end, pad]  # type: ignore[union-attr]
        return cls(model, processor, prompter)

    def save(self, folder: Path, *, weights: dict[str, torch.Tensor] | None = None) -> None:
        """Write native safetensors, config, tokenizer and processor. `weights`: these, and not the model's own."""
        with _quietly():
            self.model.save_pretrained(folder, state_dict=weights)
            self.processor.save_pretrained(folder)
        make_readable(folder)


def load(model: str | Path, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> Loaded:
    """Open a checkpoint in either layout: a folder, or a Hub id.

    Weights are mapped, so there is never a second copy of them in memory, whichever layout they are read from.

    Raises:
        ModelError: not there, not Qwen3-ASR, damaged, or with weights that are missing, unexpected or do not fit.
    """
    checkpoint = Checkpoint.open(find(model))
    with _quietly():
        processor = checkpoint.processor()
        network, report = Qwen3ASRForConditionalGeneration.from_pretrained(
            None,
            config=checkpoint.config,
            state_dict=dict(named for _, tensors in checkpoint.parts() for named in tensors.items()),
            generation_config=checkpoint.generation_config(),
            dtype=dtype,
            output_loading_info=True,
        )
    assert not (report["missing_keys"] or report["unexpected_keys"] or report["mismatched_keys"]), report
    return Loaded.wrap(network.to(device).eval(), processor)


def load_prompter(model: str | Path) -> Prompter:
    """The prompts of a checkpoint in either layout, without its weights.

    Raises:
        ModelError: not there, or not Qwen3-ASR.
    """
    with _quietly():
        return Prompter(Checkpoint.open(find(model)).processor().tokenizer)


def describe(model: str | Path) -> tuple[Any, Prompter]:
    """The config and the prompts of a checkpoint in either layout. Its weights need not be there.

    Raises:
        ModelError: not there, or not Qwen3-ASR.
    """
    folder = find(model, files=_SMALL_FILES)
    config, is_original = read_config(folder)
    with _quietly():
        return config, Prompter(read_processor(folder, config, is_original=is_original).tokenizer)


def find(model: str | Path, *, files: Sequence[str] = _HUB_FILES) -> Path:
    """The folder of a model: the one that is named, or what the Hub has under an id, downloaded once and then kept.

    Args:
        files: patterns of what is downloaded.

    Raises:
        ModelError: there is no such folder, or the Hub does not answer or has no such model for us.
    """
    folder = Path(model).expanduser()
    if folder.exists():
        return folder
    if str(model).startswith(("/", ".", "~")) or str(model).count("/") != 1:
        raise ModelError(f"{model}: no such model; expected a folder, a Hub id OWNER/NAME or models:/NAME@alias")
    try:
        return Path(snapshot_download(str(model), allow_patterns=list(files)))
    except (OSError, ValueError) as error:
        raise ModelError(f"{model}: no such folder, and the Hub does not give it: {error}") from error


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
