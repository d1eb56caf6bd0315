"""The training loss: cross-entropy at supervised positions, and logits nowhere else.

Legend: B utterances, S tokens, L supervised tokens of the whole batch, H hidden size, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from caspi.model.features import Features
from caspi.model.prompt import Example

IGNORED = -100  # the label that cross-entropy leaves out, in PyTorch and in transformers


@dataclass(frozen=True, slots=True)
class Batch:
    """Utterances of one forward pass, padded on the right."""

    input_ids: torch.Tensor  # (B, S) int64
    labels: torch.Tensor  # (B, S) int64, IGNORED outside the targets; not shifted
    features: Features
    audio_s: float

    @property
    def num_supervised(self) -> int:
        return int((self.labels != IGNORED).sum())

    def to(self, device: torch.device) -> "Batch":
        return Batch(
            self.input_ids.to(device, non_blocking=True),
            self.labels.to(device, non_blocking=True),
            self.features.to(device),
            self.audio_s,
        )


def collate(examples: Sequence[Example], features: Features, *, pad_id: int, audio_s: float) -> Batch:
    """Join examples into one padded batch."""
    width = max(len(example.prompt_ids) + len(example.target_ids) for example in examples)
    input_ids = torch.full((len(examples), width), pad_id)
    labels = torch.full((len(examples), width), IGNORED)
    for row, example in enumerate(examples):
        start, end = len(example.prompt_ids), len(example.prompt_ids) + len(example.target_ids)
        input_ids[row, :end] = torch.tensor(example.prompt_ids + example.target_ids)
        labels[row, start:end] = torch.tensor(example.target_ids)
    return Batch(input_ids, labels, features, audio_s)


def loss_sum(model: Any, batch: Batch) -> torch.Tensor:
    """Sum (not mean) of the cross-entropy over the supervised tokens, in fp32.

    A sum can be added over micro-batches and ranks and divided once by the global number of tokens, so the loss means
    the same for every split of the batch. No attention mask: padding is on the right, and a causal model at a real
    position never sees what follows.
    """
    hidden = model.model(
        input_ids=batch.input_ids,
        input_features=batch.features.values,
        input_features_mask=batch.features.mask,
        use_cache=False,
    ).last_hidden_state  # (B, S, H)
    # Position s predicts token s + 1.
    targets = batch.labels[:, 1:]
    supervised = targets != IGNORED
    logits = model.lm_head(hidden[:, :-1][supervised])  # (L, V)
    return F.cross_entropy(logits.float(), targets[supervised], reduction="sum")
