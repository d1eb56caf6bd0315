"""From one layout to the other: folders in, folders out, weights bit by bit."""

import contextlib
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from caspi.errors import ModelError
from caspi.model import layouts, weights
from caspi.model.checkpoint import Checkpoint, build_config
from caspi.model.original_files import write_json, write_original_processor
from caspi.text.qwen3_asr import KNOWN_LANGUAGES

# They say nothing of the model, or are changed on purpose.
_NOT_COMPARED = {"architectures", "_name_or_path", "transformers_version", "support_languages"}


def to_native(folder: Path, output: Path) -> None:
    """Write a model folder of either layout in transformers' native one.

    The weights go through mapped memory, file by file, so a model larger than memory can be converted.

    Raises:
        ModelError: `folder` is no whole model, or `output` holds something.
    """
    checkpoint = Checkpoint.open(folder)
    with _fresh(output) as stage:
        checkpoint.config.save_pretrained(stage)
        checkpoint.processor().save_pretrained(stage)
        _write_weights(checkpoint, stage, checkpoint.parts())


def to_qwen(folder: Path, output: Path, *, languages: Sequence[str] = ()) -> None:
    """Write a model folder of either layout in the original one, for `qwen-asr` and engines that read no other.

    `languages` are English names that the model has learnt besides those that its config lists, or else the thirty of
    the releases: they go into `support_languages`.

    Raises:
        ModelError: `folder` is no whole model, cannot be said in that layout, or `output` holds something.
    """
    checkpoint = Checkpoint.open(folder)
    processor = checkpoint.processor()
    config = _original_config(checkpoint.config, processor.tokenizer, languages)
    with _fresh(output) as stage:
        write_json(stage / "config.json", config)
        write_original_processor(processor, stage)
        _write_weights(checkpoint, stage, _original_parts(checkpoint))


def _original_config(config: Any, tokenizer: Any, languages: Sequence[str]) -> dict[str, Any]:
    native = config.to_dict()
    start, end = tokenizer.convert_tokens_to_ids(["<|audio_start|>", "<|audio_end|>"])
    original = layouts.original_config(native, audio_start_id=start, audio_end_id=end)
    again, before = _flat(build_config(layouts.native_config(original)).to_dict()), _flat(native)
    lost = sorted(key for key in before.keys() | again.keys() if before.get(key) != again.get(key))
    if lost:
        raise ModelError(f"the original layout has no place for what config.json says of {', '.join(lost)}")
    known = native.get("support_languages") or [language.name for language in KNOWN_LANGUAGES]
    return original | {"support_languages": list(dict.fromkeys([*known, *languages]))}


def _original_parts(checkpoint: Checkpoint) -> Iterator[tuple[str, dict[str, torch.Tensor]]]:
    for file, tensors in checkpoint.parts():
        if checkpoint.config.tie_word_embeddings and layouts.EMBEDDING in tensors:
            tensors[layouts.OUTPUT_LAYER] = checkpoint.embedding()
        yield file, {layouts.original_name(name): tensor for name, tensor in tensors.items()}


def _write_weights(checkpoint: Checkpoint, stage: Path, parts: Iterator[tuple[str, dict[str, torch.Tensor]]]) -> None:
    """The weights, and what both layouts have in common."""
    checkpoint.generation_config().save_pretrained(stage)
    weights.write(stage, parts)
    weights.make_readable(stage)


def _flat(fields: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested fields by dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in fields.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        elif key not in _NOT_COMPARED:
            flat[prefix + str(key)] = list(value) if isinstance(value, tuple) else value
    return flat


@contextlib.contextmanager
def _fresh(output: Path) -> Iterator[Path]:
    """A folder to write in, which becomes `output` when all is written.

    Raises:
        ModelError: `output` holds something.
    """
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise ModelError(f"{output}: already there and not empty; choose another folder, or remove this one")
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=f".{output.name}.") as temporary:
        stage = Path(temporary) / "model"
        stage.mkdir()
        yield stage
        stage.rename(output)
