"""Speech to send to an endpoint."""

from dataclasses import dataclass

import numpy as np
import pytest
import soxr

from caspi import audio


@dataclass(frozen=True, slots=True)
class Recording:
    """A file to upload."""

    name: str
    encoded: bytes
    duration_s: float

    @property
    def upload(self) -> tuple[str, bytes]:
        return self.name, self.encoded


def speak(name: str, num_recordings: int, *, words: int, seed: int, level: float = 0.5) -> list[Recording]:
    """FLAC files of synthesized Hebrew, each with other words; their samples reach `level`."""
    pytest.importorskip("espeakng_loader")
    from caspi.synthesis.espeak import SAMPLE_RATE, Engine
    from caspi.synthesis.vocabulary import WORDS
    from caspi.synthesis.voices import TRAIN_VOICES

    engine, random = Engine(), np.random.default_rng(seed)
    recordings = []
    for number in range(num_recordings):
        phonemes = [WORDS[place].phonemes for place in random.choice(len(WORDS), words)]
        voice = TRAIN_VOICES[number % len(TRAIN_VOICES)]
        spoken = engine.speak(phonemes, voice).samples.astype(np.float32)
        samples = soxr.resample(spoken, SAMPLE_RATE, audio.SAMPLE_RATE)
        samples = (level / np.abs(samples).max() * samples).astype(np.float32)
        duration_s = len(samples) / audio.SAMPLE_RATE
        recordings.append(Recording(f"{name}-{number:03d}.flac", audio.encode_flac(samples), duration_s))
    return recordings
