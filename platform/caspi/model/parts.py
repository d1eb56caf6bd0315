"""The parts of a Qwen3-ASR, and its layers: which weights are where."""

import re
from typing import Any

import torch

from caspi.recipe.learning import Part

_PREFIXES: dict[str, Part] = {
    "model.audio_tower.": "encoder",
    "model.multi_modal_projector.": "projector",
    "model.language_model.": "decoder",
    "lm_head.": "decoder",
}

_LAYERS: dict[Part, str] = {"encoder": "model.audio_tower.layers", "decoder": "model.language_model.layers"}

# The last norms and an output layer of its own are above all layers; what a part begins with is below them.
_BELOW_LAYERS = re.compile(r"audio_tower\.conv|\.embed_tokens\.")
_IN_LAYER = re.compile(r"\.layers\.(\d+)\.")


def part_of(name: str) -> Part:
    """The part that a weight or a module belongs to, by its native name."""
    return next(part for prefix, part in _PREFIXES.items() if name.startswith(prefix))


def layers(model: Any, part: Part) -> torch.nn.ModuleList:
    """The transformer layers of the encoder or the decoder, first to last."""
    found: torch.nn.ModuleList = model.get_submodule(_LAYERS[part])
    return found


def num_layers(config: Any, part: Part) -> int:
    """Of the encoder or the decoder, by a Qwen3ASRConfig."""
    of_part = {"encoder": config.audio_config, "decoder": config.text_config}[part]
    return int(of_part.num_hidden_layers)


def num_layers_above(model: Any, name: str) -> int:
    """How many layers of its part are above a weight: 0 in the last, as many as there are below the first."""
    if in_layer := _IN_LAYER.search(name):
        return num_layers(model.config, part_of(name)) - 1 - int(in_layer[1])
    return num_layers(model.config, part_of(name)) if _BELOW_LAYERS.search(name) else 0
