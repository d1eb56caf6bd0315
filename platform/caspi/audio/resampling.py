"""Blocks of any rate to one array at the wanted rate, in memory that does not grow with the recording's own rate."""

import numpy as np
import soxr

_FIRST_S = 60  # what is set aside when nobody knows how much comes


class Resampler:
    """Takes mono blocks at `native_rate` and gathers them at `sample_rate`, to the bit as if it had all at once.

    Holds one array of the result. It is enlarged in place where the system can (`mremap`), so a copy of hours of sound
    never stands beside the original.
    """

    def __init__(self, native_rate: int, sample_rate: int, num_expected: int | None) -> None:
        self._ratio = sample_rate / native_rate
        self._stream = None
        if native_rate != sample_rate:
            self._stream = soxr.ResampleStream(native_rate, sample_rate, 1, dtype="float32")
        expected = _FIRST_S * native_rate if num_expected is None else num_expected
        self._samples = np.empty(int(expected * self._ratio) + 1, np.float32)
        self._num_samples = 0

    def add(self, block: np.ndarray) -> None:
        """Add (T,) float32 at the native rate."""
        self._append(self._stream.resample_chunk(block) if self._stream else block)

    def finish(self) -> np.ndarray:
        """All samples, (num_samples,) float32. Nothing can be added afterwards."""
        if self._stream:
            self._append(self._stream.resample_chunk(np.zeros(0, np.float32), last=True))
        self._samples.resize(self._num_samples, refcheck=False)
        return self._samples

    def _append(self, resampled: np.ndarray) -> None:
        end = self._num_samples + len(resampled)
        if end > len(self._samples):
            self._samples.resize(max(end, len(self._samples) * 3 // 2), refcheck=False)
        self._samples[self._num_samples : end] = resampled
        self._num_samples = end
