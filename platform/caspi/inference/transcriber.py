"""Speech to text in this process, with transformers."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from caspi.inference import long_form
from caspi.inference.engine import Clip, drain
from caspi.inference.long_form import Transcript
from caspi.inference.transcription import Transcription
from caspi.inference.transformers_engine import TransformersEngine, load_for_inference
from caspi.model import Loaded
from caspi.recipe.sections import Inference


class Transcriber:
    """A loaded model that answers with text, by the engine that serves it too.

    transcriber = Transcriber.load("runs/demo/run/model")
    transcriber.transcribe("speech.wav", language="he").text
    """

    def __init__(self, loaded: Loaded, *, limits: Inference | None = None) -> None:
        self._engine = TransformersEngine(loaded, limits=limits or Inference())

    @classmethod
    def load(cls, model: str | Path, *, device: str | None = None, limits: Inference | None = None) -> "Transcriber":
        """Open a model folder, `models:/NAME@alias`, `runs:/ID/model` or a Hub id.

        Raises:
            ModelError: it is not there, or not a model that Caspi can use.
        """
        limits = limits or Inference()
        return cls(load_for_inference(model, device=device, precision=limits.precision), limits=limits)

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
        """Transcribe 16 kHz mono clips, as many at a time as there is room for. Answers come in the order of the clips.

        Raises:
            RequestError: a language is unknown.
        """
        languages, prompts = languages or [None] * len(clips), prompts or [""] * len(clips)
        described = zip(clips, languages, prompts, strict=True)
        return drain(self._engine, [Clip.of(clip, language=lang, prompt=prompt) for clip, lang, prompt in described])
