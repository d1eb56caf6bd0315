"""Speech to send to an endpoint."""

from dataclasses import dataclass

import numpy as np

from caspi import audio
from tests import speech


@dataclass(frozen=True, slots=True)
class Recording:
    """A file to upload."""

    name: str
    encoded: bytes
    duration_s: float

    @property
    def upload(self) -> tuple[str, bytes]:
        return self.name, self.encoded


def speak(name: str, num_recordings: int, *, duration_s: float, level: float = 0.5) -> list[Recording]:
    """FLAC files of synthesized Hebrew, each with another part of it; their samples reach `level`."""
    num_samples = round(duration_s * audio.SAMPLE_RATE)
    samples = speech.speak(duration_s + 0.25 * num_recordings)
    recordings = []
    for number in range(num_recordings):
        first = number * audio.SAMPLE_RATE // 4
        part = samples[first : first + num_samples]
        encoded = audio.encode_flac((level / np.abs(part).max() * part).astype(np.float32))
        recordings.append(Recording(f"{name}-{number:03d}.flac", encoded, duration_s))
    return recordings
