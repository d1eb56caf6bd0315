"""What can be evaluated and compared: anything that transcribes, behind one small interface and one kind of name.

    runs/mine/run/model, models:/NAME@alias, runs:/ID/model, OWNER/NAME   a Caspi model
    hf:FOLDER, hf:OWNER/NAME                                               any ASR model of transformers
    https://HOST/v1#MODEL                                                  any endpoint with OpenAI's contract
    file:PATH                                                              hypotheses made elsewhere

Nothing heavy is loaded here: `System.load` does that, in the process that transcribes.
"""

import csv
import functools
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np

from caspi.errors import RequestError
from caspi.inference.transcription import Transcription
from caspi.recipe.sections import Inference

Kind = Literal["caspi", "huggingface", "endpoint", "file"]


class BatchTranscriber(Protocol):
    """What evaluation asks of a model. `caspi.Transcriber` is one."""

    def transcribe_batch(
        self, clips: Sequence[np.ndarray], *, languages: Sequence[str | None] | None = None
    ) -> Sequence[Transcription]:
        """Answers in the order of the clips, which are 16 kHz mono float32. `languages` are ISO 639 codes."""
        ...


@runtime_checkable
class AnswersById(Protocol):
    """What a file of hypotheses does instead: it hears nothing, and is asked for utterances by their id."""

    def recall(self, utterance_ids: Sequence[str]) -> Sequence[str]:
        """The text of each utterance.

        Raises:
            RequestError: it has none for some of them.
        """
        ...


@dataclass(frozen=True, slots=True)
class System:
    """Something that transcribes, named and not yet loaded."""

    name: str
    """As the user wrote it."""

    kind: Kind

    load: Callable[[], BatchTranscriber | AnswersById] = field(repr=False)
    """Loads it. Runs in the process that transcribes, so it can be pickled."""


def open_system(name: str, *, limits: Inference | None = None) -> System:
    """The system that a name means. A file is read and an endpoint asked for its models here, before any work starts.

    Args:
        limits: how much audio is transcribed at once, as in a recipe's `inference`.

    Raises:
        RequestError: the file is not one of hypotheses, or the endpoint does not answer or lacks the model.
    """
    limits = limits or Inference()
    if name.startswith("hf:"):
        return System(name, "huggingface", functools.partial(_load_huggingface, name.removeprefix("hf:"), limits))
    if name.startswith(("http://", "https://")):
        from caspi.evaluation.endpoint import Endpoint  # openai takes a second to import

        return System(name, "endpoint", Endpoint.open(name))
    if name.startswith("file:"):
        path = Path(name.removeprefix("file:")).expanduser()
        return System(name, "file", functools.partial(HypothesesFile, str(path), read_hypotheses(path)))
    return System(name, "caspi", functools.partial(load_caspi, name, limits))


def load_caspi(model: str, limits: Inference) -> BatchTranscriber:
    """Runs where the model transcribes: the driver needs no torch."""
    from caspi.inference.transcriber import Transcriber

    return Transcriber.load(model, limits=limits)


def _load_huggingface(model: str, limits: Inference) -> BatchTranscriber:
    from caspi.evaluation.huggingface import HuggingFaceModel

    return HuggingFaceModel.load(model, limits=limits)


@dataclass(frozen=True, slots=True)
class HypothesesFile:
    """A file of hypotheses, read."""

    path: str
    texts: Mapping[str, str] = field(repr=False)

    def recall(self, utterance_ids: Sequence[str]) -> list[str]:
        missing = [each for each in utterance_ids if each not in self.texts]
        if missing:
            raise RequestError(
                f"{self.path}: no line for {len(missing)} of {len(utterance_ids)} utterances, {missing[0]!r} for "
                "instance; an utterance in which nothing was heard needs a line with an empty text"
            )
        return [self.texts[each] for each in utterance_ids]


def read_hypotheses(path: Path) -> dict[str, str]:
    """Texts by utterance id, from JSON lines or CSV with `utterance_id` and `text`; other keys are not looked at.

    Raises:
        RequestError: the file cannot be read, a line lacks one of the two, or an utterance has two lines.
    """
    readers: dict[str, Callable[[Iterable[str]], Iterable[Any]]] = {
        ".jsonl": functools.partial(map, json.loads),
        ".csv": csv.DictReader,
    }
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise RequestError(f"{path}: expected a .jsonl or .csv file with `utterance_id` and `text`")
    texts: dict[str, str] = {}
    try:
        with path.open(encoding="utf-8-sig", newline="") as lines:
            for number, row in enumerate(reader(line for line in lines if line.strip()), 1):
                utterance_id, text = _id_and_text(row, path, number)
                if utterance_id in texts:
                    raise RequestError(f"{path}: row {number}: a second text for {utterance_id!r}; expected one each")
                texts[utterance_id] = text
    except (OSError, ValueError, csv.Error) as error:
        raise RequestError(f"{path}: not readable as hypotheses: {error}") from error
    if not texts:
        raise RequestError(f"{path}: no hypotheses in it; expected a row for each utterance")
    return texts


def _id_and_text(row: Any, path: Path, number: int) -> tuple[str, str]:
    if isinstance(row, dict):
        utterance_id, text = row.get("utterance_id"), row.get("text")
        if isinstance(utterance_id, str) and isinstance(text, str):
            return utterance_id, text
    found = f"keys {', '.join(map(str, row))}" if isinstance(row, dict) else type(row).__name__
    raise RequestError(f"{path}: row {number}: found {found}; expected texts under `utterance_id` and `text`")
