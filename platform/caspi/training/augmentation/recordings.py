"""Folders of recorded noise or of room impulse responses, from which single ones are drawn."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from caspi import audio
from caspi.corpus.sources import files
from caspi.corpus.sources.folder import AUDIO_SUFFIXES
from caspi.errors import AudioError, TrainingError

# A minute is 4 MB: a worker keeps up to 120 MB.
_NUM_KEPT = 32
_MAX_S = 60.0


@dataclass(frozen=True)
class Recordings:
    """The audio files of a folder. Which is drawn depends on their names and the random numbers alone."""

    paths: tuple[str, ...]

    def draw(self, random: np.random.Generator) -> np.ndarray:
        """One of them, or its first minute: (num_samples,) float32.

        Raises:
            TrainingError: it cannot be read.
        """
        return _read(self.paths[int(random.integers(len(self.paths)))])


@lru_cache(maxsize=4)
def open_recordings(folder: str) -> Recordings:
    """The audio files of a folder or URL and of all folders in it. They must stay as they are while a run goes on.

    Raises:
        SourceError: there is no such folder, or no audio in it.
    """
    return Recordings(tuple(file.path for file in files.find_files(folder, *AUDIO_SUFFIXES)))


@lru_cache(maxsize=_NUM_KEPT)
def _read(path: str) -> np.ndarray:
    try:
        decoded = audio.decode(files.read_bytes(path), source=path)
    except (OSError, AudioError) as error:
        raise TrainingError(f"{path}: cannot be used for augmentation: {error}; repair it or take it away") from error
    samples = decoded.samples[: round(_MAX_S * audio.SAMPLE_RATE)].copy()
    samples.flags.writeable = False  # it is used again
    return samples
