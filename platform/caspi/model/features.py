"""Audio samples to the model's input: log-mel frames.

Legend: B utterances, N samples, T mel frames (100 a second, padded to whole seconds), M = 128 mel bins.

The same numbers as transformers' Qwen3ASRFeatureExtractor gives for each clip alone. Its batched output differs from
that in the last frame and in the padding of shorter clips; ours does not depend on the neighbours.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from transformers.audio_utils import mel_filter_bank

from caspi.audio import SAMPLE_RATE
from caspi.model.audio_tokens import FRAMES_PER_CHUNK, HOP, MIN_SAMPLES

NUM_MEL_BINS = 128
WINDOW = 400  # samples of a Fourier frame


@dataclass(frozen=True, slots=True)
class Features:
    """A batch of log-mel spectrograms."""

    values: torch.Tensor  # (B, M, T) float32, zero where there is no audio
    mask: torch.Tensor  # (B, T) int64, 1 at frames of audio

    def to(self, device: torch.device) -> "Features":
        return Features(self.values.to(device, non_blocking=True), self.mask.to(device, non_blocking=True))


def log_mel(clips: Sequence[np.ndarray], *, device: torch.device | str = "cpu") -> Features:
    """Log-mel spectrograms of 16 kHz mono clips, computed together, each as if it were alone."""
    lengths = [max(len(clip), MIN_SAMPLES) for clip in clips]
    frames = torch.tensor([length // HOP for length in lengths], device=device)
    width = -(-int(frames.max()) // FRAMES_PER_CHUNK) * FRAMES_PER_CHUNK
    half = WINDOW // 2
    padded = np.zeros((len(clips), (width - 1) * HOP + WINDOW), np.float32)
    for row, clip, length in zip(padded, clips, lengths, strict=True):
        filled = np.zeros(length, np.float32)
        filled[: len(clip)] = clip
        # The transform mirrors the signal at both of its own ends, wherever the batch ends.
        mirrored = np.pad(filled, half, mode="reflect")[: len(row)]
        row[: len(mirrored)] = mirrored
    signal = torch.from_numpy(padded).to(device)
    spectrum = torch.stft(
        signal, WINDOW, HOP, window=torch.hann_window(WINDOW, device=device), center=False, return_complex=True
    )
    power = spectrum.abs().square()  # (B, 1 + WINDOW / 2, T)
    mel = torch.clamp(_filters().to(device).T @ power, min=1e-10).log10()  # (B, M, T)
    mask = torch.arange(width, device=device) < frames[:, None]  # (B, T)
    loudest = mel.masked_fill(~mask[:, None], -torch.inf).amax(dim=(1, 2), keepdim=True)
    values = (torch.maximum(mel, loudest - 8.0) + 4.0) / 4.0
    return Features(values * mask[:, None], mask.long())


@lru_cache(maxsize=1)
def _filters() -> torch.Tensor:
    filters = mel_filter_bank(
        num_frequency_bins=1 + WINDOW // 2,
        num_mel_filters=NUM_MEL_BINS,
        min_frequency=0.0,
        max_frequency=SAMPLE_RATE / 2,
        sampling_rate=SAMPLE_RATE,
        norm="slaney",
        mel_scale="slaney",
    )
    return torch.from_numpy(filters).float()
