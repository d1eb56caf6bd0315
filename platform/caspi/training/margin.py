"""How much longer an utterance may be when it is computed than it is in the corpus: a bound must hold for that."""

import math
from dataclasses import dataclass

import numpy as np

from caspi.audio import SAMPLE_RATE
from caspi.model.audio_tokens import MIN_SAMPLES
from caspi.recipe.sections import Training
from caspi.training.lengths import audio_tokens


@dataclass(frozen=True, slots=True)
class Margin:
    """The worst that augmentation and context can add to one utterance."""

    speed: float = 0.0  # the slowest is 1 - speed
    shift_s: float = 0.0
    context_tokens: int = 0

    @classmethod
    def of(cls, training: Training) -> "Margin":
        return cls(
            speed=training.augmentation.speed,
            shift_s=training.augmentation.max_shift_s,
            context_tokens=training.context.max_tokens if training.context.share else 0,
        )

    def seconds(self, durations_s: np.ndarray) -> np.ndarray:
        """The longest that clips of so many seconds can become, float64. Short ones are filled up to half a second."""
        samples = np.rint(np.asarray(durations_s, np.float64) * SAMPLE_RATE)
        if self.speed:
            samples = np.ceil(samples / (1 - self.speed)) + 1  # the resampler rounds in either direction
        return np.maximum(samples + math.ceil(self.shift_s * SAMPLE_RATE), MIN_SAMPLES) / SAMPLE_RATE

    def tokens(self, num_tokens: np.ndarray, durations_s: np.ndarray) -> np.ndarray:
        """The most tokens that they can have, int64."""
        longer = audio_tokens(self.seconds(durations_s)) - audio_tokens(durations_s)
        return num_tokens + longer + self.context_tokens
