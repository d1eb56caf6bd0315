"""A model folder in either layout, opened and checked. Everything is read by its native names."""

import json
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import GenerationConfig, Qwen3ASRConfig, Qwen3ASRForConditionalGeneration, Qwen3ASRProcessor

from caspi.errors import ModelError
from caspi.model import layouts
from caspi.model.audio_tokens import FRAMES_PER_CHUNK
from caspi.model.features import NUM_MEL_BINS
from caspi.model.original_files import read_original_processor
from caspi.model.prompt import Prompter
from caspi.model.weights import Weights

logger = logging.getLogger(__name__)

_ALIGNER = "Qwen3ASRForTokenClassification"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A model folder whose config and weights belong together. No weight is read before it is asked for."""

    folder: Path
    is_original: bool
    config: Any  # transformers.Qwen3ASRConfig
    weights: Weights  # by their names in the files

    @classmethod
    def open(cls, folder: Path) -> "Checkpoint":
        """Read the config and the headers of the weights.

        Raises:
            ModelError: not a Qwen3-ASR that transcribes; or weights that are missing, unexpected, of another shape,
                damaged, or untied although the config ties them.
        """
        config, is_original = read_config(folder)
        checkpoint = cls(folder, is_original, config, Weights.open(folder))
        checkpoint._check_weights()
        return checkpoint

    def processor(self) -> Any:
        """The native processor.

        Raises:
            ModelError: its files are not there, or not of this model.
        """
        return read_processor(self.folder, self.config, is_original=self.is_original)

    def generation_config(self) -> Any:
        """What the folder says about generation; greedy where it says nothing, or what transformers refuses to save."""
        try:
            config = GenerationConfig.from_pretrained(self.folder)
            config.validate(strict=True)
        except (OSError, ValueError) as error:
            if (self.folder / "generation_config.json").exists():
                logger.warning("%s: generation_config.json is left out: %s", self.folder, error)
            return GenerationConfig(eos_token_id=self.config.eos_token_id, pad_token_id=self.config.pad_token_id)
        return config

    def parts(self) -> Iterator[tuple[str, dict[str, torch.Tensor]]]:
        """The weights by their native names, file by file, each tensor once: a tied output layer is left out."""
        for file in self.weights.file_names:
            named = {self._native_name(name): tensor for name, tensor in self.weights.read(file).items()}
            if self.config.tie_word_embeddings:
                named.pop(layouts.OUTPUT_LAYER, None)
            yield file, named

    def embedding(self) -> torch.Tensor:
        return self.weights.tensor(self._stored_name(layouts.EMBEDDING))

    def _check_weights(self) -> None:
        is_tied = self.config.tie_word_embeddings
        with torch.device("meta"):
            expected = Qwen3ASRForConditionalGeneration(self.config).state_dict()
        head = self._stored_name(layouts.OUTPUT_LAYER)
        if experts := [name for name in self.weights.files if ".mlp.experts." in name]:
            raise ModelError(f"{self.folder}: a mixture of experts ({experts[0]}); expected a dense Qwen3-ASR")
        shapes = {self._stored_name(name): tuple(tensor.shape) for name, tensor in expected.items()}
        self.weights.check(shapes, optional=[head] if is_tied else [])
        if is_tied and head in self.weights.files and not torch.equal(self.weights.tensor(head), self.embedding()):
            raise ModelError(
                f"{self.folder}: {head} differs from {self._stored_name(layouts.EMBEDDING)}, "
                "and config.json ties them (tie_word_embeddings); one of the two is wrong"
            )

    def _native_name(self, stored: str) -> str:
        return layouts.native_name(stored) if self.is_original else stored

    def _stored_name(self, native: str) -> str:
        return layouts.original_name(native) if self.is_original else native


def read_config(folder: Path) -> tuple[Any, bool]:
    """The native config of a model folder, and whether its layout is the original one.

    Raises:
        ModelError: not a Qwen3-ASR that transcribes.
    """
    fields = _read_fields(folder)
    is_original = layouts.is_original(fields)
    try:
        return build_config(layouts.native_config(fields) if is_original else fields), is_original
    except ModelError as error:
        raise ModelError(f"{folder / 'config.json'}: {error}") from error
    except (TypeError, ValueError, AttributeError, StrictDataclassError) as error:
        raise ModelError(f"{folder / 'config.json'}: not a config of Qwen3-ASR: {error}") from error


def read_processor(folder: Path, config: Any, *, is_original: bool) -> Any:
    """The native processor of a model folder.

    Raises:
        ModelError: its files are not there, or not of this model.
    """
    read = read_original_processor if is_original else Qwen3ASRProcessor.from_pretrained
    try:
        processor = read(folder)
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise ModelError(f"{folder}: no readable tokenizer and processor of Qwen3-ASR: {error}") from error
    Prompter.matching(processor.tokenizer, config)
    return processor


def build_config(fields: Mapping[str, Any]) -> Any:
    """A Qwen3ASRConfig of the native fields, of a kind that Caspi's features fit.

    Raises:
        ModelError: Caspi's features do not fit it. transformers has its own errors for fields that are wrong.
    """
    config = Qwen3ASRConfig.from_dict(dict(fields))
    audio = config.audio_config
    found = {"num_mel_bins": audio.num_mel_bins, "n_window": audio.n_window}
    expected = {"num_mel_bins": NUM_MEL_BINS, "n_window": FRAMES_PER_CHUNK // 2}
    if found != expected or audio.n_window_infer % FRAMES_PER_CHUNK:
        raise ModelError(
            f"audio_config: {found} with n_window_infer={audio.n_window_infer}; "
            f"expected {expected} and a multiple of {FRAMES_PER_CHUNK}, as in Qwen3-ASR's releases"
        )
    return config


def _read_fields(folder: Path) -> dict[str, Any]:
    try:
        fields = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{folder}: not a model folder: no readable config.json") from error
    found = fields.get("model_type") if isinstance(fields, dict) else None
    if found != "qwen3_asr":
        raise ModelError(f"{folder}: model_type is {found!r}; expected 'qwen3_asr'")
    if _ALIGNER in (fields.get("architectures") or []):
        raise ModelError(f"{folder}: {_ALIGNER}, a forced aligner: it marks times and transcribes nothing")
    return fields
