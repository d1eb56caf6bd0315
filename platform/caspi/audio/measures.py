"""Figures about a recording's sound: how loud, how clipped, how noisy. Plain numpy, thousands of times real time."""

from dataclasses import dataclass

import numpy as np

from caspi.audio.decoding import SAMPLE_RATE

SILENCE_DBFS = -120.0
"""The level of digital silence, which has no logarithm. 16-bit rounding alone is about 20 dB louder."""

_FULL_SCALE = 0.999
_MAX_SNR_DB = 80.0

_FRAME_S = 0.03  # about a phone's length: short enough to fit into the pauses between words
_MIN_FRAMES = 10  # 0.3 s; of fewer the quietest tenth is not even one frame
_NOISE_SHARE = 0.1

# ITU-T P.56 takes as active what lies less than 15.9 dB under the level of the active speech itself.
_ACTIVITY_MARGIN = 10**1.59


@dataclass(frozen=True, slots=True)
class Measures:
    """What `measure` finds."""

    level_dbfs: float  # RMS of the whole recording, dB under full scale; SILENCE_DBFS for digital silence
    peak: float  # the largest absolute sample
    clipped_share: float  # share of samples at or beyond full scale
    snr_db: float | None  # None where there is no way to tell


def measure(samples: np.ndarray, sample_rate: int = SAMPLE_RATE) -> Measures:
    """Measure mono samples, (num_samples,) float in [-1, 1].

    A resampled recording overshoots where the original was clipped flat, so single samples count and not only runs;
    a recording normalised to its one loudest sample has a share of almost nothing.
    """
    if not len(samples):
        return Measures(SILENCE_DBFS, 0.0, 0.0, None)
    frames = _frame_powers(samples, round(_FRAME_S * sample_rate))
    # From the frames' powers, and not as one product: BLAS would sum in an order that depends on its threads.
    length = round(_FRAME_S * sample_rate)
    rest = samples[len(frames) * length :].astype(np.float64)
    power = (float(frames.sum(dtype=np.float64)) * length + float((rest**2).sum())) / len(samples)
    peak = float(max(samples.max(), -samples.min()))
    num_clipped = 0
    if peak >= _FULL_SCALE:
        num_clipped = int(np.count_nonzero(samples >= _FULL_SCALE) + np.count_nonzero(samples <= -_FULL_SCALE))
    level_dbfs = max(SILENCE_DBFS, float(10 * np.log10(power))) if power > 0 else SILENCE_DBFS
    return Measures(level_dbfs, peak, num_clipped / len(samples), _snr_db(frames))


def _frame_powers(samples: np.ndarray, length: int) -> np.ndarray:
    """(num_samples,) -> (num_frames,): the mean square of each whole frame."""
    frames = samples[: len(samples) // length * length].reshape(-1, length)
    powers: np.ndarray = np.einsum("ft,ft->f", frames, frames) / length
    return powers


def _snr_db(powers: np.ndarray) -> float | None:
    """The active speech's level over the noise's, in dB, from the powers of frames.

    The noise is the quietest tenth of the frames: what is heard in the pauses. The speech is the rest after the noise
    is subtracted, averaged over the frames that are active in the sense of ITU-T P.56, so that long pauses do not make
    it softer. Within about 3 dB from 0 to 40 dB for speech with pauses over steady noise. It misleads where nobody
    pauses (the quietest speech is taken for noise, and the figure is too low), and where the noise comes and goes
    (music and other talkers count as speech). Of noise alone it gives well under 0.

    None for fewer than 0.3 s, and where the pauses are digital silence: a gate or a synthesizer hides what noise there
    was.
    """
    if len(powers) < _MIN_FRAMES:
        return None
    ordered = np.sort(powers)
    place, rest = divmod(_NOISE_SHARE * (len(ordered) - 1), 1)
    below, above = ordered[int(place) : int(place) + 2].tolist()
    noise = below + rest * (above - below)
    if noise <= 0:
        return None
    speech = np.maximum(ordered[::-1] - noise, 0)
    means = np.cumsum(speech, dtype=np.float64) / np.arange(1, len(speech) + 1)
    num_active = int(np.count_nonzero(speech * _ACTIVITY_MARGIN >= means))
    active = float(means[max(num_active, 1) - 1])
    if active <= 0:
        return None
    return min(_MAX_SNR_DB, float(10 * np.log10(active / noise)))
