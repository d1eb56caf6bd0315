"""Clips to the model's input: log-mel frames, made on the device that trains.

Legend: B clips, F mel frames of all clips (100 a second), C seconds that hold them, M = 128 mel bins, T frames of the
longest clip, padded to whole seconds.

The same numbers as transformers' Qwen3ASRFeatureExtractor gives for each clip alone. Its batched output differs from
that in the last frame and in the padding of shorter clips; ours does not depend on the neighbours.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate

import numpy as np
import torch
from transformers.audio_utils import mel_filter_bank

from caspi.audio import SAMPLE_RATE
from caspi.model.audio_tokens import FRAMES_PER_CHUNK, HOP, MIN_SAMPLES, num_audio_tokens, num_frames

NUM_MEL_BINS = 128
WINDOW = 400  # samples of a Fourier frame

_EXTRA_HOPS = 2  # the last frame of a clip reaches beyond its hop


@dataclass(frozen=True, slots=True)
class Features:
    """Log-mel spectrograms of several clips, one after the other, each from the start of a second."""

    seconds: torch.Tensor  # (C, M, 100) float32, zero where there is no audio
    is_audio: torch.Tensor  # (C, 100) int64, 1 at frames of audio
    num_frames: tuple[int, ...]  # of each clip

    @property
    def values(self) -> torch.Tensor:
        """As transformers takes them: (B, M, T), zero where there is no audio."""
        clips = self.seconds.transpose(1, 2).split(_seconds_of(self.num_frames))  # B of (seconds of the clip, 100, M)
        padded = torch.nn.utils.rnn.pad_sequence(list(clips), batch_first=True)
        return padded.flatten(1, 2).transpose(1, 2)

    @property
    def mask(self) -> torch.Tensor:
        """As transformers takes it: (B, T) int64, 1 at frames of audio."""
        clips = self.is_audio.split(_seconds_of(self.num_frames))
        return torch.nn.utils.rnn.pad_sequence(list(clips), batch_first=True).flatten(1)


@dataclass(frozen=True, slots=True)
class Sound:
    """The samples of several clips, and what is hidden of them: all that their features are made of."""

    signal: torch.Tensor  # float32, one clip after the other, each mirrored at its ends and of whole hops
    bands: torch.Tensor  # (B, number of bands, 2) int64: first and end mel bin
    spans: torch.Tensor  # (B, number of spans, 2) int64: first and end frame
    num_samples: tuple[int, ...]  # of each clip

    @classmethod
    def of(
        cls, clips: Sequence[np.ndarray], *, bands: np.ndarray | None = None, spans: np.ndarray | None = None
    ) -> "Sound":
        """Join 16 kHz mono clips. Default: nothing of them is hidden."""
        nothing = np.zeros((len(clips), 0, 2), np.int64)
        signal = np.zeros(HOP * sum(_hops([len(clip) for clip in clips])), np.float32)
        start = 0
        for clip in clips:
            filled = np.zeros(max(len(clip), MIN_SAMPLES), np.float32)
            filled[: len(clip)] = clip
            # The transform mirrors each clip at its own ends, wherever it lies.
            mirrored = np.pad(filled, WINDOW // 2, mode="reflect")
            frames = num_frames(len(clip))
            heard = (frames - 1) * HOP + WINDOW
            signal[start : start + heard] = mirrored[:heard]
            start += HOP * (frames + _EXTRA_HOPS)
        return cls(
            torch.from_numpy(signal),
            torch.from_numpy(nothing if bands is None else bands),
            torch.from_numpy(nothing if spans is None else spans),
            tuple(len(clip) for clip in clips),
        )

    @property
    def num_frames(self) -> tuple[int, ...]:
        """Mel frames of each clip."""
        return tuple(map(num_frames, self.num_samples))

    @property
    def num_tokens(self) -> tuple[int, ...]:
        """Audio tokens of each clip."""
        return tuple(map(num_audio_tokens, self.num_samples))

    def map(self, change: Callable[[torch.Tensor], torch.Tensor]) -> "Sound":
        """Every tensor changed: moved, pinned, and so on."""
        return Sound(change(self.signal), change(self.bands), change(self.spans), self.num_samples)

    def part(self, first: int, end: int) -> "Sound":
        """Some of the clips, from the one at `first` up to `end`."""
        borders = [0, *accumulate(HOP * hops for hops in _hops(self.num_samples))]
        signal = self.signal[borders[first] : borders[end]]
        return Sound(signal, self.bands[first:end], self.spans[first:end], self.num_samples[first:end])

    @torch.no_grad()
    def features(self) -> Features:
        """Log-mel spectrograms of all clips, computed together, each as if it were alone, on the device of the signal.

        What is hidden is zero, the middle of the features' range, as SpecAugment wants it (arXiv 1904.08779).
        """
        device, frames = self.signal.device, self.num_frames
        num_seconds = _seconds_of(frames)
        clip = torch.repeat_interleave(  # of each frame, (F,)
            torch.arange(len(frames), device=device), _on(device, frames), output_size=sum(frames)
        )
        place = torch.arange(sum(frames), device=device) - _on(device, _starts(frames))[clip]  # within its clip
        # Not with autocast: what is left of 8 bits after a logarithm is no spectrogram.
        with torch.autocast(device.type, enabled=False):
            values = self._log_mel(clip, place)  # (F, M)
        hidden = _within(torch.arange(NUM_MEL_BINS, device=device), self.bands.unsqueeze(1))[clip]  # (F, M)
        hidden |= _within(place, self.spans[clip]).unsqueeze(-1)
        values = values.masked_fill(hidden, 0.0)
        slot = place + FRAMES_PER_CHUNK * _on(device, _starts(num_seconds))[clip]
        seconds = values.new_zeros(sum(num_seconds) * FRAMES_PER_CHUNK, NUM_MEL_BINS)
        is_audio = slot.new_zeros(len(seconds))
        return Features(
            seconds.index_copy(0, slot, values).unflatten(0, (-1, FRAMES_PER_CHUNK)).transpose(1, 2),
            is_audio.index_fill(0, slot, 1).unflatten(0, (-1, FRAMES_PER_CHUNK)),
            frames,
        )

    def _log_mel(self, clip: torch.Tensor, place: torch.Tensor) -> torch.Tensor:
        """Of each frame, without what lies between clips: (F, M)."""
        device = self.signal.device
        hop = place + _on(device, _starts(_hops(self.num_samples)))[clip]
        windows = self.signal.unfold(0, WINDOW, HOP)[hop] * torch.hann_window(WINDOW, device=device)  # (F, WINDOW)
        power = torch.fft.rfft(windows).abs().square()  # (F, 1 + WINDOW / 2)
        mel = torch.clamp(power @ _filters().to(device), min=1e-10).log10()
        loudest = mel.new_full((len(self.num_samples),), -torch.inf).scatter_reduce(0, clip, mel.amax(-1), "amax")
        return (torch.maximum(mel, loudest[clip].unsqueeze(-1) - 8.0) + 4.0) / 4.0


def log_mel(clips: Sequence[np.ndarray], *, device: torch.device | str = "cpu") -> Features:
    """Log-mel spectrograms of 16 kHz mono clips, computed together on a device, each as if it were alone."""
    return Sound.of(clips).map(lambda tensor: tensor.to(device)).features()


def _hops(num_samples: Sequence[int]) -> list[int]:
    """How many hops each clip takes in a signal."""
    return [num_frames(length) + _EXTRA_HOPS for length in num_samples]


def _seconds_of(frames: Sequence[int]) -> list[int]:
    """Whole seconds that hold each clip."""
    return [-(-length // FRAMES_PER_CHUNK) for length in frames]


def _starts(lengths: Sequence[int]) -> list[int]:
    return [0, *accumulate(lengths)][:-1]


def _on(device: torch.device, numbers: Sequence[int]) -> torch.Tensor:
    return torch.tensor(numbers, device=device)


def _within(places: torch.Tensor, ranges: torch.Tensor) -> torch.Tensor:
    """Whether each place lies in any of its ranges: (...), (..., N, 2) -> (...)."""
    places = places.unsqueeze(-1)
    return ((places >= ranges[..., 0]) & (places < ranges[..., 1])).any(-1)


@lru_cache(maxsize=1)
def _filters() -> torch.Tensor:
    """What each bin of the spectrum gives to each mel bin, (1 + WINDOW / 2, M)."""
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
