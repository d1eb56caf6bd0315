"""Recordings of any length: speech found, cut at pauses, joined again. Plain Python, no event loop."""

import contextlib
import mmap
import re
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from caspi import audio
from caspi.errors import RequestError
from caspi.inference.cutting import Cutter, Cutting, Piece
from caspi.inference.engine import BatchTranscriber
from caspi.inference.transcription import Finish, TokenLogProb, Transcription

MAX_RECORDING_S = 3 * 3600.0
"""The longest recording that is tested."""

# What `transcribe` gathers before it asks the model, which then puts pieces of similar length together. 30 MB.
_GROUP_S = 480.0

# The head of Qwen3-ASR's answer, wherever it stands, and every other token that is no text.
_TAG = re.compile(r"(?:\blanguage\s+[^<>\n]{0,40}?)?<asr_text>|<\|[^|<>]{1,40}\|>")
_CUT_OFF_TAG = re.compile(r"\s*language(?:\s+[A-Z]\w{0,40})?\s*", re.ASCII)


@dataclass(frozen=True, slots=True)
class Segment:
    """A span of a recording and what was said in it."""

    start_s: float
    end_s: float
    text: str
    language: str | None = None
    """English name."""

    log_probs: tuple[TokenLogProb, ...] | None = None
    """Of the text's tokens. None: nobody asked."""

    finish: Finish = "stop"
    """Why the text ends. Anything but `stop` says that the model went astray in it; see `Transcription`."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What a transcript is measured by."""

    audio_s: float
    """Seconds of the recording."""

    speech_s: float
    """Of them, the seconds that went to the model."""


@dataclass(frozen=True, slots=True)
class Transcript:
    """All of a recording."""

    text: str
    language: str | None
    """English name, of most of the speech. None: nobody speaks."""

    duration_s: float
    covered_s: float
    """Seconds that the model transcribed or that hold no speech: all of them, always."""

    segments: tuple[Segment, ...]
    usage: Usage


def transcribe(
    model: BatchTranscriber,
    source: Path | bytes | np.ndarray,
    *,
    name: str | None = None,
    language: str | None = None,
    prompt: str = "",
    cutting: Cutting | None = None,
) -> Transcript:
    """The transcript of a file, encoded bytes, or 16 kHz mono float32 samples, by a model in this process.

    Memory does not grow with the length: about 60 MB beside the model, `source`, and the transcript itself. A file is
    mapped, not read.

    Raises:
        AudioError: the recording cannot be used.
        RequestError: the file is not there, or the language is unknown.
    """
    joiner = Joiner()
    for group in _groups(cut(source, name=name, cutting=cutting or Cutting())):
        clips = [piece.samples for piece in group if piece.samples is not None]
        languages, prompts = [language] * len(clips), [prompt] * len(clips)
        answers = iter(model.transcribe_batch(clips, languages=languages, prompts=prompts) if clips else ())
        for piece in group:
            joiner.add(piece, None if piece.samples is None else next(answers))
    return joiner.finish()


def cut(
    source: Path | bytes | mmap.mmap | np.ndarray,
    *,
    cutting: Cutting,
    name: str | None = None,
    max_duration_s: float = MAX_RECORDING_S,
) -> Generator[Piece]:
    """The pieces of a recording, in order, decoded as they are asked for.

    Of a bad recording there may be pieces before the error.

    Raises:
        AudioError: the recording cannot be used.
        RequestError: the file is not there.
    """
    cutter = Cutter(cutting)
    num_samples = 0
    with _blocks(source, name, max_duration_s) as blocks:
        for block in blocks:
            num_samples += len(block)
            yield from cutter.add(block)
    yield from cutter.finish()
    if cutter.end != num_samples:
        raise RuntimeError(f"{num_samples} samples were decoded, and {cutter.end} of them are in pieces")


class Joiner:
    """Answers to pieces become a transcript."""

    def __init__(self) -> None:
        self._segments: list[Segment] = []
        self._speech: dict[str, int] = {}  # samples by language
        self._end = self._num_covered = self._num_spoken = 0

    def add(self, piece: Piece, answer: Transcription | None) -> Segment | None:
        """The next piece, in the recording's order; None answers one without speech. The segment that it became.

        A piece in which the model heard nothing becomes none.
        """
        if piece.start != self._end:
            raise RuntimeError(f"the piece at sample {piece.start} does not follow the one that ends at {self._end}")
        if (piece.samples is None) != (answer is None):
            raise RuntimeError(
                f"the piece at sample {piece.start} is to be transcribed if it holds speech, and only then"
            )
        self._end = piece.end
        self._num_covered += piece.end - piece.start
        if answer is None:
            return None
        self._num_spoken += piece.end - piece.start
        text = without_tags(answer.text)
        if not text:
            return None
        if answer.language is not None:
            spoken = self._speech.get(answer.language, 0) + piece.speech_end - piece.speech_start
            self._speech[answer.language] = spoken
        # Times are right to 0.1 s; more digits than these would promise more than is known.
        start_s, end_s = (round(place / audio.SAMPLE_RATE, 2) for place in (piece.speech_start, piece.speech_end))
        self._segments.append(Segment(start_s, end_s, text, answer.language, answer.log_probs, answer.finish))
        return self._segments[-1]

    def finish(self) -> Transcript:
        """The transcript of all of it."""
        duration_s = self._end / audio.SAMPLE_RATE
        return Transcript(
            text=" ".join(segment.text for segment in self._segments),
            language=max(self._speech, key=lambda name: self._speech[name], default=None),
            duration_s=duration_s,
            covered_s=self._num_covered / audio.SAMPLE_RATE,
            segments=tuple(self._segments),
            usage=Usage(duration_s, self._num_spoken / audio.SAMPLE_RATE),
        )


def without_tags(text: str) -> str:
    """A model's text without the head `language Hebrew<asr_text>` and other control tokens, whatever it wrote."""
    cleaned = _TAG.sub(" ", text)
    if _CUT_OFF_TAG.fullmatch(cleaned):  # the answer ended inside its head
        return ""
    return " ".join(cleaned.split())


def _groups(pieces: Iterator[Piece]) -> Iterator[list[Piece]]:
    group: list[Piece] = []
    for piece in pieces:
        group.append(piece)
        if sum(each.duration_s for each in group if each.samples is not None) >= _GROUP_S:
            yield group
            group = []
    yield group


@contextlib.contextmanager
def _blocks(
    source: Path | bytes | mmap.mmap | np.ndarray, name: str | None, max_duration_s: float
) -> Iterator[Iterator[np.ndarray]]:
    if isinstance(source, np.ndarray):
        yield iter([source])
        return
    with contextlib.ExitStack() as stack:
        encoded = stack.enter_context(_mapped(source)) if isinstance(source, Path) else source
        shown = name or (str(source) if isinstance(source, Path) else "the recording")
        recording = audio.open_recording(encoded, source=shown, max_duration_s=max_duration_s)
        yield stack.enter_context(recording).blocks


@contextlib.contextmanager
def _mapped(path: Path) -> Iterator[bytes | mmap.mmap]:
    try:
        file = path.open("rb")
    except OSError as error:
        raise RequestError(f"{path}: cannot be read: {error.strerror}") from error
    with file:
        try:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (ValueError, OSError):  # empty, or a pipe
            yield file.read()
            return
        with mapped:
            yield mapped
