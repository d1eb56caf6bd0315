"""The only place that knows Qwen3-ASR's quirks: prompts, labels, loss, features, layouts.

Its names import torch and transformers when they are first asked for; `caspi.model.audio_tokens` does without.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from caspi.model.audio_tokens import num_audio_tokens
    from caspi.model.batch import Batch, collate
    from caspi.model.conversion import to_native, to_qwen
    from caspi.model.features import log_mel
    from caspi.model.loading import Loaded, describe, find, load, load_prompter
    from caspi.model.loss import Losses, loss_sums
    from caspi.model.prompt import NO_SPEECH, Example, Prompter
    from caspi.model.toy import build_toy

__all__ = [
    "NO_SPEECH",
    "Batch",
    "Example",
    "Loaded",
    "Losses",
    "Prompter",
    "build_toy",
    "collate",
    "describe",
    "find",
    "load",
    "load_prompter",
    "log_mel",
    "loss_sums",
    "num_audio_tokens",
    "to_native",
    "to_qwen",
]

_PLACES = {
    "audio_tokens": ("num_audio_tokens",),
    "batch": ("Batch", "collate"),
    "conversion": ("to_native", "to_qwen"),
    "features": ("log_mel",),
    "loading": ("Loaded", "describe", "find", "load", "load_prompter"),
    "loss": ("Losses", "loss_sums"),
    "prompt": ("NO_SPEECH", "Example", "Prompter"),
    "toy": ("build_toy",),
}


def __getattr__(name: str) -> Any:
    for place, names in _PLACES.items():
        if name in names:
            return getattr(importlib.import_module(f"caspi.model.{place}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
