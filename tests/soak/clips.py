"""Speech to send to an endpoint, and a model whose answer says exactly which audio it was given."""

import hashlib
import os
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import soxr

from caspi import audio

POISON_LEVEL = 0.9
"""A clip whose samples reach this kills the process that transcribes it. All others are quieter."""


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


def echo(*, seconds: float = 0.05, seconds_per_audio_s: float = 0.0) -> Callable[[], Any]:
    """Makes a model that answers each clip with a hash of its samples, after a while.

    The class is made here, so that Ray ships it itself to replicas, which cannot import tests.
    """
    poison_level = POISON_LEVEL

    class Echo:
        def transcribe_batch(
            self,
            clips: Sequence[np.ndarray],
            *,
            languages: Sequence[str | None] | None = None,
            prompts: Sequence[str] | None = None,
        ) -> list[Any]:
            from caspi.inference.transcription import Transcription

            durations_s = [len(clip) / audio.SAMPLE_RATE for clip in clips]
            time.sleep(seconds + seconds_per_audio_s * sum(durations_s))
            if any(np.abs(clip).max(initial=0) >= poison_level for clip in clips):
                os.kill(os.getpid(), signal.SIGKILL)
            digests = [hashlib.sha256(clip.tobytes()).hexdigest()[:12] for clip in clips]
            return [Transcription(text, "Hebrew", s) for text, s in zip(digests, durations_s, strict=True)]

    return Echo
