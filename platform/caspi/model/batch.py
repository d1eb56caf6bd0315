"""What one forward pass of training reads: prompts, labels and features of several utterances, padded on the right.

Legend: B utterances, S tokens, M mel bins, T mel frames.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from caspi.audio import SAMPLE_RATE
from caspi.model.audio_tokens import FRAMES_PER_CHUNK, HOP
from caspi.model.features import Features
from caspi.model.prompt import Example

IGNORED = -100  # the label that cross-entropy leaves out, in PyTorch and in transformers

_FRAMES_PER_S = SAMPLE_RATE // HOP


@dataclass(frozen=True, slots=True)
class Batch:
    """Utterances of one forward pass, padded on the right."""

    input_ids: torch.Tensor  # (B, S) int64
    labels: torch.Tensor  # (B, S) int64, IGNORED outside the targets; not shifted
    texts: tuple[torch.Tensor, ...]  # B of (tokens of the transcript alone,)
    features: Features
    audio_s: float  # of all utterances, padding not included

    @property
    def num_utterances(self) -> int:
        return len(self.texts)

    @property
    def num_supervised(self) -> int:
        return int((self.labels != IGNORED).sum())

    @property
    def num_tokens(self) -> int:
        """Positions that the decoder computes, padding included."""
        return self.input_ids.numel()

    @property
    def num_real_tokens(self) -> int:
        """Positions of prompts and targets, without padding."""
        return int(self.row_tokens().sum())

    @property
    def padded_s(self) -> float:
        """Seconds of audio in the rectangle: utterances times the longest of them."""
        return self.num_utterances * int(self.features.mask.sum(-1).max()) / _FRAMES_PER_S

    def to(self, device: torch.device) -> "Batch":
        return Batch(
            self.input_ids.to(device, non_blocking=True),
            self.labels.to(device, non_blocking=True),
            tuple(text.to(device, non_blocking=True) for text in self.texts),
            self.features.to(device),
            self.audio_s,
        )

    def halves(self) -> tuple["Batch", "Batch"]:
        """The same utterances in two batches, each as wide as its own longest. Sums of losses add up to the whole's.

        Where the whole does not fit into memory. `audio_s` is divided as the mel frames are.

        Raises:
            ValueError: there is only one utterance.
        """
        if self.num_utterances < 2:
            raise ValueError("a batch of one utterance cannot be halved; expected two or more")
        middle = self.num_utterances // 2
        first_s = self.audio_s * float(self.features.mask[:middle].sum() / self.features.mask.sum())
        return self._rows(slice(middle), first_s), self._rows(slice(middle, None), self.audio_s - first_s)

    def _rows(self, rows: slice, audio_s: float) -> "Batch":
        width = int(self.row_tokens()[rows].max())
        frames = int(self.features.mask[rows].sum(-1).max())
        frames += -frames % FRAMES_PER_CHUNK  # the encoder reads whole seconds
        features = Features(self.features.values[rows, :, :frames], self.features.mask[rows, :frames])
        return Batch(self.input_ids[rows, :width], self.labels[rows, :width], self.texts[rows], features, audio_s)

    def row_tokens(self) -> torch.Tensor:
        """Tokens of each row without padding: it ends with the last supervised one, its end of turn."""
        places = torch.arange(1, self.labels.shape[1] + 1, device=self.labels.device)
        return (places * (self.labels != IGNORED)).amax(-1)  # (B, S) -> (B,)


def collate(examples: Sequence[Example], features: Features, *, pad_id: int, audio_s: float) -> Batch:
    """Join examples into one padded batch. Each may have its own language, context, or no speech in it."""
    width = max(len(example.prompt_ids) + len(example.target_ids) for example in examples)
    input_ids = torch.full((len(examples), width), pad_id)
    labels = torch.full((len(examples), width), IGNORED)
    for row, example in enumerate(examples):
        start, end = len(example.prompt_ids), len(example.prompt_ids) + len(example.target_ids)
        input_ids[row, :end] = torch.tensor(example.prompt_ids + example.target_ids)
        labels[row, start:end] = torch.tensor(example.target_ids)
    texts = tuple(torch.tensor(example.text_ids, dtype=torch.long) for example in examples)
    return Batch(input_ids, labels, texts, features, audio_s)
