"""Blocks of any rate to blocks, or one array, at the wanted rate."""

import numpy as np
import soxr

_FIRST_S = 60  # what is set aside when nobody knows how much comes


class Resampler:
    """Blocks at one rate to blocks at another: joined, to the bit what one call for the whole would give."""

    def __init__(self, native_rate: int, sample_rate: int) -> None:
        self._stream = None
        if native_rate != sample_rate:
            self._stream = soxr.ResampleStream(native_rate, sample_rate, 1, dtype="float32")

    def resample(self, block: np.ndarray) -> np.ndarray:
        """(T,) float32 at the native rate -> what can be told by now, which lags a little behind."""
        return self._stream.resample_chunk(block) if self._stream else block

    def finish(self) -> np.ndarray:
        """The rest."""
        nothing = np.zeros(0, np.float32)
        return self._stream.resample_chunk(nothing, last=True) if self._stream else nothing


class Gatherer:
    """Blocks to one array, in memory that does not grow with the recording's own rate.

    It is enlarged in place where the system can (`mremap`), so a copy of hours of sound never stands beside the
    original.
    """

    def __init__(self, sample_rate: int, expected_s: float | None) -> None:
        """`expected_s` is how much will come; None: nobody knows."""
        self._samples = np.empty(int((_FIRST_S if expected_s is None else expected_s) * sample_rate) + 1, np.float32)
        self._num_samples = 0

    def add(self, block: np.ndarray) -> None:
        """Add (T,) float32."""
        end = self._num_samples + len(block)
        if end > len(self._samples):
            self._samples.resize(max(end, len(self._samples) * 3 // 2), refcheck=False)
        self._samples[self._num_samples : end] = block
        self._num_samples = end

    def finish(self) -> np.ndarray:
        """All samples, (num_samples,) float32. Nothing can be added afterwards."""
        self._samples.resize(self._num_samples, refcheck=False)
        return self._samples
