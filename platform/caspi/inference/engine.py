"""What decodes clips: the protocol that serving, evaluation and `caspi transcribe` drive, and how an engine is opened.

An engine holds some clips at a time and decodes them together, step by step. A clip that is done leaves at once and its
place is free for another one, so that a short clip never waits for the end of a long one (continuous batching, as in
Orca, OSDI 2022). Who drives it decides which clip starts when: `serve.batching.Batcher` for an endpoint,
`drain` for clips that are all there.

Imports neither torch nor a model: the ingress describes clips with it.
"""

import importlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from caspi import audio
from caspi.errors import RequestError
from caspi.inference.transcription import Transcription
from caspi.recipe.sections import Inference

ENGINES: Mapping[str, str] = {
    "transformers": "caspi.inference.transformers_engine:open_transformers",
    "vllm": "caspi.inference.vllm_engine:open_vllm",
}
"""The kinds of engines, and what opens each: a function of a model and limits, as `module:function`."""


@dataclass(frozen=True, slots=True)
class Clip:
    """One piece of audio on its way to an engine."""

    samples: np.ndarray  # (num_samples,) float32 mono, 16 kHz
    duration_s: float
    language: str | None = None
    """Forced on the answer: ISO 639 code or English name. None: the model says which language it hears."""

    prompt: str = ""
    """Context: names and terms that are likely to occur."""

    with_log_probs: bool = False
    """Whether the answer shall say how likely each of its tokens is. Costs a softmax per step."""

    @classmethod
    def of(cls, samples: np.ndarray, *, language: str | None = None, prompt: str = "") -> "Clip":
        """A clip of 16 kHz mono samples, whose number says how long it is."""
        return cls(samples, len(samples) / audio.SAMPLE_RATE, language, prompt)


@runtime_checkable
class Engine(Protocol):
    """Decodes clips together. Whoever drives it calls it from one thread at a time.

    An exception of `start` concerns the clips that it was given, of which none has started then. One of `step` concerns
    every clip inside: `drop` them all, and the engine is as good as new.
    """

    @property
    def fill(self) -> float:
        """The share of the room that clips inside take, padding included: 0 empty, 1 full.

        More than 1 with a clip that is longer than the room, which goes alone.
        """

    def fits(self, clips: Sequence[Clip]) -> bool:
        """Whether these clips could all start now, beside those inside. One clip always fits into an empty engine."""

    def start(self, clips: Sequence[Clip]) -> list[int]:
        """Take clips in, which must fit. Returns a number for each, by which `step` and `drop` know it.

        Raises:
            RequestError: a clip asks for what the model does not have, such as an unknown language.
        """

    def step(self) -> list[tuple[int, Transcription]]:
        """Decode what is inside a little further. Returns the clips that are done, which are inside no more.

        Call it again and again while clips are inside; with none it does nothing.
        """

    def drop(self, numbers: Collection[int]) -> None:
        """Forget clips that nobody waits for any more. Numbers of clips that are no longer inside do no harm."""


def open_engine(model: str | Path, *, limits: Inference | None = None, kind: str = "transformers") -> Engine:
    """An engine with a model folder, `models:/NAME@alias`, `runs:/ID/model` or a Hub id.

    Args:
        limits: how much audio it decodes together, and how long answers may become.
        kind: one of `ENGINES`.

    Raises:
        ModelError: the model is not there, or not one that Caspi can use.
        RequestError: there is no such kind.
    """
    if kind not in ENGINES:
        raise RequestError(f"engine {kind!r} is unknown; known: {', '.join(ENGINES)}")
    module, _, function = ENGINES[kind].partition(":")
    engine: Engine = getattr(importlib.import_module(module), function)(model, limits=limits or Inference())
    return engine


def drain(engine: Engine, clips: Sequence[Clip]) -> list[Transcription]:
    """Transcribe clips that are all there, longest first. Answers come in the order of the clips.

    Whatever happens, the engine is empty afterwards.
    """
    waiting = sorted(range(len(clips)), key=lambda place: clips[place].duration_s)  # the longest is taken first
    places: dict[int, int] = {}  # by the engine's number
    answers: dict[int, Transcription] = {}
    try:
        while waiting or places:
            admitted: list[int] = []
            while waiting and engine.fits([clips[place] for place in (*admitted, waiting[-1])]):
                admitted.append(waiting.pop())
            places |= zip(engine.start([clips[place] for place in admitted]), admitted, strict=True)
            answers |= {places.pop(number): answer for number, answer in engine.step()}
    finally:
        engine.drop(places)
    return [answers[place] for place in range(len(clips))]


class BatchTranscriber(Protocol):
    """Anything that answers whole batches, such as a double in a test."""

    def transcribe_batch(
        self,
        clips: Sequence[np.ndarray],
        *,
        languages: Sequence[str | None] | None = None,
        prompts: Sequence[str] | None = None,
    ) -> Sequence[Transcription]: ...


class BatchEngine:
    """An engine over what answers whole batches: clips that start together end together, in one step."""

    def __init__(self, transcriber: BatchTranscriber, *, max_batch_s: float) -> None:
        self._transcriber = transcriber
        self._max_batch_s = max_batch_s
        self._inside: dict[int, Clip] = {}
        self._next_number = 0

    @property
    def fill(self) -> float:
        return self._padded_s(list(self._inside.values())) / self._max_batch_s

    def fits(self, clips: Sequence[Clip]) -> bool:
        if self._inside:
            return False
        return len(clips) <= 1 or self._padded_s(clips) <= self._max_batch_s

    def start(self, clips: Sequence[Clip]) -> list[int]:
        numbers = list(range(self._next_number, self._next_number + len(clips)))
        self._next_number += len(clips)
        self._inside |= zip(numbers, clips, strict=True)
        return numbers

    def step(self) -> list[tuple[int, Transcription]]:
        inside = self._inside
        if not inside:
            return []
        clips = list(inside.values())
        answers = self._transcriber.transcribe_batch(
            [clip.samples for clip in clips],
            languages=[clip.language for clip in clips],
            prompts=[clip.prompt for clip in clips],
        )
        if len(answers) != len(clips):
            raise RuntimeError(f"the transcriber answered {len(answers)} of {len(clips)} clips")
        self._inside = {}
        return list(zip(inside, answers, strict=True))

    def drop(self, numbers: Collection[int]) -> None:
        self._inside = {number: clip for number, clip in self._inside.items() if number not in numbers}

    @staticmethod
    def _padded_s(clips: Sequence[Clip]) -> float:
        return len(clips) * max((clip.duration_s for clip in clips), default=0.0)


def as_engine(given: Any, *, max_batch_s: float) -> Engine:
    """An engine as it is; what answers whole batches becomes one."""
    return given if isinstance(given, Engine) else BatchEngine(given, max_batch_s=max_batch_s)
