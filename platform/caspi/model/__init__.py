"""The only place that knows Qwen3-ASR's quirks: prompts, labels, loss, features, layouts.

Importing it imports torch and transformers.
"""

from caspi.model.batch import Batch, collate
from caspi.model.conversion import to_native, to_qwen
from caspi.model.features import log_mel, num_audio_tokens
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
