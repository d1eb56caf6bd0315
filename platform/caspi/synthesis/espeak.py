"""eSpeak NG through ctypes: phonemes in, samples and the moment where each word begins out.

The library keeps state between sentences, so the same sentence said twice in one process differs in a few samples.
Speech is reproducible only as a whole: a fresh process that says the same sentences in the same order, and in voices
without breath noise.
"""

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from caspi.errors import CaspiError
from caspi.synthesis.voices import Voice

SAMPLE_RATE = 22050  # what every formant voice of eSpeak is rendered at

_SYNCHRONOUS = 2
_EVENT_WORD, _EVENT_LIST_END = 1, 0
_UTF8_WITH_PHONEMES = 1 | 0x100
_PARAMETER_RATE, _PARAMETER_PITCH = 1, 3
_SILENCE = 100  # eSpeak pads a sentence with near-zero samples; its quietest phonemes are well above this


class SpeechEngineError(CaspiError):
    """eSpeak NG is not installed, or refuses what it is told."""


@dataclass(frozen=True, slots=True)
class Speech:
    """One spoken sentence."""

    samples: np.ndarray  # (num_samples,) int16 mono at SAMPLE_RATE, cut where the last word has died away
    word_starts_s: tuple[float, ...]  # one for each word, from 0


class _Identity(ctypes.Union):
    _fields_ = (("number", ctypes.c_int), ("name", ctypes.c_char_p), ("string", ctypes.c_char * 8))


class _Event(ctypes.Structure):
    """espeak_EVENT of speak_lib.h."""

    _fields_ = (
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", _Identity),
    )


_Callback = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event)
)  # (samples, num_samples, events) -> 0 to go on


def require() -> Any:
    """The module that brings eSpeak NG.

    Raises:
        SpeechEngineError: it is not installed.
    """
    try:
        import espeakng_loader
    except ImportError:
        raise SpeechEngineError(
            "speech synthesis needs eSpeak NG, which is not installed; run `pip install 'caspi[synthesis]'`"
        ) from None
    return espeakng_loader


class Engine:
    """The library, loaded. One per process: it keeps its voice and its callback in globals."""

    def __init__(self) -> None:
        loader = require()
        try:
            self._library = ctypes.CDLL(loader.get_library_path())
        except OSError as error:
            raise SpeechEngineError(f"eSpeak NG is installed but does not load: {error}") from error
        sample_rate = self._library.espeak_Initialize(_SYNCHRONOUS, 0, loader.get_data_path().encode(), 0)
        if sample_rate != SAMPLE_RATE:
            raise SpeechEngineError(f"eSpeak NG started with {sample_rate} Hz, expected {SAMPLE_RATE}; reinstall it")
        self._variants = Path(loader.get_data_path()) / "voices" / "!v"
        self._pieces: list[np.ndarray] = []
        self._word_starts: list[int] = []
        self._callback = _Callback(self._collect)  # kept: the library holds a pointer to it
        self._library.espeak_SetSynthCallback(self._callback)

    def speak(self, words: Sequence[str], voice: Voice) -> Speech:
        """Say the words, given as phonemes, as one sentence.

        Raises:
            SpeechEngineError: eSpeak does not know the voice, or did not find all the words.
        """
        self._pieces.clear()
        self._word_starts.clear()
        # Asked for a variant that it does not have, eSpeak silently takes the plain voice.
        has_variant = (self._variants / voice.variant).is_file()
        if not has_variant or self._library.espeak_SetVoiceByName(f"he+{voice.variant}".encode()) != 0:
            raise SpeechEngineError(f"eSpeak NG has no voice variant {voice.variant!r} in {self._variants}")
        self._library.espeak_SetParameter(_PARAMETER_RATE, voice.rate, 0)
        self._library.espeak_SetParameter(_PARAMETER_PITCH, voice.pitch, 0)
        text = " ".join(f"[[{word}]]" for word in words).encode()
        status = self._library.espeak_Synth(
            text, ctypes.c_size_t(len(text) + 1), 0, 1, 0, _UTF8_WITH_PHONEMES, None, None
        )
        if status != 0 or len(self._word_starts) != len(words):
            raise SpeechEngineError(
                f"eSpeak NG said {len(self._word_starts)} of {len(words)} words (status {status}): {text.decode()}"
            )
        samples = np.concatenate(self._pieces)
        end = int(np.flatnonzero(np.abs(samples) > _SILENCE)[-1]) + 1
        return Speech(samples[:end], tuple(start / SAMPLE_RATE for start in self._word_starts))

    def _collect(self, samples: Any, num_samples: int, events: Any) -> int:
        if samples and num_samples > 0:
            self._pieces.append(np.ctypeslib.as_array(samples, (num_samples,)).copy())
        index = 0
        while events[index].type != _EVENT_LIST_END:
            if events[index].type == _EVENT_WORD:
                self._word_starts.append(events[index].sample)
            index += 1
        return 0
