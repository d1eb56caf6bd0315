"""Speech to text in this process, with transformers."""

import math
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from caspi import audio, text
from caspi.inference import long_form
from caspi.inference.long_form import Transcript
from caspi.inference.transcription import Transcription
from caspi.model import Loaded, load, log_mel, num_audio_tokens
from caspi.recipe.sections import Inference

# The head `language Hebrew<asr_text>` and the end of turn, which no rate of speech accounts for.
EXTRA_TOKENS = 16


class Transcriber:
    """A loaded model that answers with text.

    transcriber = Transcriber.load("runs/demo/run/model")
    transcriber.transcribe("speech.wav", language="he").text
    """

    def __init__(self, loaded: Loaded, *, limits: Inference | None = None) -> None:
        self._loaded = loaded
        self._limits = limits or Inference()
        self._device = next(loaded.model.parameters()).device

    @classmethod
    def load(cls, model: str | Path, *, device: str | None = None, limits: Inference | None = None) -> "Transcriber":
        """Open a model folder, `models:/NAME@alias`, `runs:/ID/model` or a Hub id.

        On a GPU the weights are bfloat16, on a CPU float32.

        Raises:
            ModelError: it is not there, or not a model that Caspi can use.
        """
        from caspi.tracking import locate_model  # MLflow is needed for its URIs alone

        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        dtype = torch.bfloat16 if device.startswith("cuda") else torch.float32
        return cls(load(locate_model(str(model)), device=device, dtype=dtype), limits=limits)

    def transcribe(
        self, recording: str | Path | bytes | np.ndarray, *, language: str | None = None, prompt: str | None = None
    ) -> Transcript:
        """Transcribe a file, encoded bytes, or 16 kHz mono float32 samples, of any length.

        What holds no speech does not reach the model; see `long_form`.

        Args:
            language: ISO 639 code or English name. None lets the model say which it hears.
            prompt: names and terms that are likely to occur.

        Raises:
            AudioError: the recording cannot be used.
            RequestError: the file is not there, or the language is unknown.
        """
        source = Path(recording) if isinstance(recording, str) else recording
        return long_form.transcribe(self, source, language=language, prompt=prompt or "")

    def transcribe_batch(
        self,
        clips: Sequence[np.ndarray],
        *,
        languages: Sequence[str | None] | None = None,
        prompts: Sequence[str] | None = None,
    ) -> list[Transcription]:
        """Transcribe 16 kHz mono clips, in batches of similar length. Answers come in the order of the clips."""
        names = [
            None if language is None else text.language_name(text.language_code(language))
            for language in languages or [None] * len(clips)
        ]
        contexts = list(prompts) if prompts is not None else [""] * len(clips)
        answers: list[Transcription | None] = [None] * len(clips)
        for batch in batches_by_length([len(clip) for clip in clips], max_samples=self._max_batch_samples):
            began = time.perf_counter()
            texts = self._generate([clips[i] for i in batch], [names[i] for i in batch], [contexts[i] for i in batch])
            latency_s = time.perf_counter() - began
            for i, (language, written) in zip(batch, texts, strict=True):
                answers[i] = Transcription(written, language, len(clips[i]) / audio.SAMPLE_RATE, latency_s)
        return [answer for answer in answers if answer is not None]

    @property
    def _max_batch_samples(self) -> int:
        return int(self._limits.max_batch_s * audio.SAMPLE_RATE)

    @torch.inference_mode()
    def _generate(
        self, clips: Sequence[np.ndarray], languages: Sequence[str | None], contexts: Sequence[str]
    ) -> list[tuple[str | None, str]]:
        """Greedy answers for one batch, as (language, text)."""
        prompter, model = self._loaded.prompter, self._loaded.model
        prompts = [
            prompter.prompt(num_audio_tokens(len(clip)), context=context, language=language)
            for clip, language, context in zip(clips, languages, contexts, strict=True)
        ]
        inputs = _pad_left(prompts, prompter.pad_id, self._device)
        features = log_mel(clips, device=self._device)
        longest_s = max(len(clip) for clip in clips) / audio.SAMPLE_RATE
        generated = model.generate(
            **inputs,
            input_features=features.values.to(model.dtype),
            input_features_mask=features.mask,
            max_new_tokens=EXTRA_TOKENS + math.ceil(longest_s * self._limits.max_tokens_per_s),
            do_sample=False,
        )
        answers = generated[:, inputs["input_ids"].shape[1] :].tolist()
        return [prompter.parse(ids, language=language) for ids, language in zip(answers, languages, strict=True)]


def batches_by_length(lengths: Sequence[int], *, max_samples: int) -> Iterator[list[int]]:
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


def _pad_left(prompts: Sequence[list[int]], pad_id: int, device: torch.device) -> dict[str, Any]:
    """Generation continues each row at its right end, so padding goes to the left."""
    width = max(len(prompt) for prompt in prompts)
    input_ids = torch.full((len(prompts), width), pad_id)
    mask = torch.zeros(len(prompts), width, dtype=torch.long)
    for row, prompt in enumerate(prompts):
        input_ids[row, width - len(prompt) :] = torch.tensor(prompt)
        mask[row, width - len(prompt) :] = 1
    return {"input_ids": input_ids.to(device), "attention_mask": mask.to(device)}
