"""Any speech recognition model of transformers (Whisper, wav2vec 2.0, Moonshine, Parakeet, ...) as a system."""

import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from caspi import audio
from caspi.errors import ModelError, RequestError
from caspi.inference.transcription import Transcription
from caspi.recipe.sections import Inference

# Whisper hears half a minute at a time and computes it in full for shorter clips; CTC models are cut as long too.
_WINDOW_S = 30


class HuggingFaceModel:
    """A model in transformers' own pipeline, which decodes as it is set up: Whisper with five beams, for instance."""

    def __init__(self, name: str, pipeline: Any, *, limits: Inference) -> None:
        self._name = name
        self._pipeline = pipeline
        if pipeline.tokenizer.pad_token is None:
            pipeline.tokenizer.pad_token = pipeline.tokenizer.eos_token  # without one transformers makes no batches
        self._batch_size = max(1, int(limits.max_batch_s // _WINDOW_S))

    @classmethod
    def load(cls, name: str, *, limits: Inference) -> "HuggingFaceModel":
        """Open a folder or a Hub id, on a GPU in half precision if there is one.

        Raises:
            ModelError: it is not there, or not a model that recognizes speech.
        """
        import torch
        from transformers import pipeline

        device = "cuda" if torch.cuda.is_available() else "cpu"
        dtype = torch.float16 if device == "cuda" else torch.float32
        try:
            return cls(name, pipeline("automatic-speech-recognition", name, device=device, dtype=dtype), limits=limits)
        except (OSError, ValueError, KeyError) as error:
            raise ModelError(
                f"hf:{name}: transformers finds no speech recognition model there: {error}; expected a folder with "
                "weights, configuration, tokenizer and feature extractor, or a Hub id"
            ) from error

    def transcribe_batch(
        self, clips: Sequence[np.ndarray], *, languages: Sequence[str | None] | None = None
    ) -> list[Transcription]:
        """Answers in the order of the clips.

        Raises:
            RequestError: the model is told its language and does not know one of these.
        """
        spoken = list(languages) if languages is not None else [None] * len(clips)
        heard: list[tuple[str, float]] = [("", 0.0)] * len(clips)
        for language in dict.fromkeys(spoken):
            chosen = [place for place, each in enumerate(spoken) if each == language]
            for is_long in (False, True):
                places = [place for place in chosen if _is_long(clips[place]) == is_long]
                answers = self._transcribe([clips[place] for place in places], language, is_long=is_long)
                for place, answer in zip(places, answers, strict=True):
                    heard[place] = answer
        return [
            Transcription(text.strip(), language, len(clip) / audio.SAMPLE_RATE, latency_s)
            for (text, latency_s), language, clip in zip(heard, spoken, clips, strict=True)
        ]

    def _transcribe(
        self, clips: Sequence[np.ndarray], language: str | None, *, is_long: bool
    ) -> list[tuple[str, float]]:
        """Each clip's text, and the seconds that its batch took."""
        heard: list[tuple[str, float]] = [("", 0.0)] * len(clips)
        longest = max(map(len, clips), default=1)
        # Clips of similar length together, so that a model without windows of its own pads little.
        for batch in _batches_by_length([len(clip) for clip in clips], max_samples=longest * self._batch_size):
            began = time.perf_counter()
            answers = self._pipeline(
                [{"raw": clips[place], "sampling_rate": audio.SAMPLE_RATE} for place in batch],
                # The pipeline would write letters for the padding that other kinds of models get in a batch.
                batch_size=len(batch) if self._pipeline.type.startswith("seq2seq") and not is_long else 1,
                **self._options(language, is_long=is_long),
            )
            latency_s = time.perf_counter() - began
            for place, answer in zip(batch, answers, strict=True):
                heard[place] = answer["text"], latency_s
        return heard

    def _options(self, language: str | None, *, is_long: bool) -> dict[str, Any]:
        options: dict[str, Any] = {}
        generation = getattr(self._pipeline.model, "generation_config", None)  # models that do not generate have none
        known = getattr(generation, "lang_to_id", None)
        if known and language is not None:
            if f"<|{language}|>" not in known:
                raise RequestError(
                    f"hf:{self._name}: does not know language {language!r}; it knows "
                    f"{', '.join(sorted(token.strip('<|>') for token in known))}"
                )
            options["generate_kwargs"] = {"language": language, "task": "transcribe"}
        if is_long and self._pipeline.type == "seq2seq_whisper":
            options["return_timestamps"] = True  # by which Whisper finds where its next window begins
        elif is_long and self._pipeline.type == "ctc":
            options["chunk_length_s"] = _WINDOW_S
        return options


def _is_long(clip: np.ndarray) -> bool:
    return len(clip) > _WINDOW_S * audio.SAMPLE_RATE


def _batches_by_length(lengths: Sequence[int], *, max_samples: int) -> Iterator[list[int]]:
    """Group positions so that clips of similar length share a batch of at most `max_samples`, padding included.

    A clip longer than the bound gets a batch of its own.
    """
    batch: list[int] = []
    for position in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if batch and lengths[batch[0]] * (len(batch) + 1) > max_samples:
            yield batch
            batch = []
        batch.append(position)
    if batch:
        yield batch
