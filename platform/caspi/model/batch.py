"""What one forward pass of training reads: prompts, labels and the sound of several utterances.

There are two collations. Bucketed utterances are rows of a rectangle, padded on the right, and should be of similar
length. Packed ones lie end to end in a single row without padding; attention keeps them apart.

Legend: B utterances, R rows, S positions of a row.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
import torch

from caspi.audio import SAMPLE_RATE
from caspi.model.features import Features, Sound
from caspi.model.prompt import Example
from caspi.recipe.sections import Collation

IGNORED = -100  # the label that cross-entropy leaves out, in PyTorch and in transformers


@dataclass(frozen=True, slots=True)
class Batch:
    """Utterances of one forward pass."""

    input_ids: torch.Tensor  # (R, S) int64; R is B, or 1 where they are packed
    labels: torch.Tensor  # (R, S) int64, IGNORED outside the targets; not shifted
    texts: tuple[torch.Tensor, ...]  # B of (tokens of the transcript alone,)
    sound: Sound
    lengths: tuple[int, ...]  # B: tokens of each utterance

    @property
    def num_utterances(self) -> int:
        return len(self.lengths)

    @property
    def is_packed(self) -> bool:
        """Whether a row holds several utterances."""
        return len(self.input_ids) < self.num_utterances

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
        return sum(self.lengths)

    @property
    def features(self) -> Features:
        """Log-mel spectrograms, computed where the batch lies each time that they are asked for."""
        return self.sound.features()

    @property
    def audio_s(self) -> float:
        """Seconds of all utterances, padding not included."""
        return sum(self.sound.num_samples) / SAMPLE_RATE

    @property
    def padded_s(self) -> float:
        """Seconds of audio that the batch takes room for: bucketed, utterances times the longest of them."""
        if self.is_packed:
            return self.audio_s
        return self.num_utterances * max(self.sound.num_samples) / SAMPLE_RATE

    def map(self, change: Callable[[torch.Tensor], torch.Tensor]) -> "Batch":
        """Every tensor changed."""
        return Batch(
            change(self.input_ids),
            change(self.labels),
            tuple(map(change, self.texts)),
            self.sound.map(change),
            self.lengths,
        )

    def to(self, device: torch.device) -> "Batch":
        return self.map(lambda tensor: tensor.to(device, non_blocking=True))

    def halves(self) -> tuple["Batch", "Batch"]:
        """The same utterances in two batches, collated as these are. Sums of losses add up to the whole's.

        Where the whole does not fit into memory.

        Raises:
            ValueError: there is only one utterance.
        """
        if self.num_utterances < 2:
            raise ValueError("a batch of one utterance cannot be halved; expected two or more")
        middle = self.num_utterances // 2
        return self._part(0, middle), self._part(middle, self.num_utterances)

    def _part(self, first: int, end: int) -> "Batch":
        lengths = self.lengths[first:end]
        if self.is_packed:
            start = sum(self.lengths[:first])
            here = (slice(None), slice(start, start + sum(lengths)))
        else:
            here = (slice(first, end), slice(max(lengths)))
        return Batch(
            self.input_ids[here], self.labels[here], self.texts[first:end], self.sound.part(first, end), lengths
        )


def collate(
    examples: Sequence[Example], sound: Sound | Sequence[np.ndarray], *, pad_id: int, collation: Collation = "bucketed"
) -> Batch:
    """Join examples into one batch. Each may have its own language, context, or no speech in it.

    Args:
        sound: of the examples in their order; 16 kHz mono clips will do.
    """
    lengths = tuple(len(example.prompt_ids) + len(example.target_ids) for example in examples)
    if collation == "packed":
        shape, starts = (1, sum(lengths)), [(0, start) for start in accumulate((0, *lengths[:-1]))]
    else:
        shape, starts = (len(examples), max(lengths)), [(row, 0) for row in range(len(examples))]
    input_ids, labels = torch.full(shape, pad_id), torch.full(shape, IGNORED)
    for example, (row, start), length in zip(examples, starts, lengths, strict=True):
        # An utterance begins with its prompt, so where one follows another nothing is predicted across.
        target, end = start + len(example.prompt_ids), start + length
        input_ids[row, start:end] = torch.tensor(example.prompt_ids + example.target_ids)
        labels[row, target:end] = torch.tensor(example.target_ids)
    texts = tuple(torch.tensor(example.text_ids, dtype=torch.long) for example in examples)
    return Batch(input_ids, labels, texts, sound if isinstance(sound, Sound) else Sound.of(sound), lengths)
