"""The only place that knows Qwen3-ASR's quirks: prompts, labels, loss, features, layouts.

Importing it imports torch and transformers.
"""

from caspi.model.features import log_mel, num_audio_tokens
from caspi.model.loading import Loaded, load, load_prompter
from caspi.model.loss import Batch, Losses, collate, loss_sums
from caspi.model.prompt import Example, Prompter
from caspi.model.toy import build_toy

__all__ = [
    "Batch",
    "Example",
    "Loaded",
    "Losses",
    "Prompter",
    "build_toy",
    "collate",
    "load",
    "load_prompter",
    "log_mel",
    "loss_sums",
    "num_audio_tokens",
]
