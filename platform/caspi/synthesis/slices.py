"""The whisper-training layout: a row is a slice of up to 30 s of a recording, its transcript full of time tokens."""

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from caspi.synthesis.dressing import dress
from caspi.synthesis.encoding import GARBAGE, RECITAL_ENCODING, encode
from caspi.synthesis.espeak import SAMPLE_RATE, Speech
from caspi.synthesis.grammar import Sentence
from caspi.synthesis.plan import SLICE_FLAWS, UNTRANSCRIBED, Entry, Part
from caspi.synthesis.scene import add_noise, place, word_times
from caspi.synthesis.truth import truth_row

SLICE_SCHEMA = pa.schema(
    [
        ("audio", pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
        ("transcript", pa.string()),
        (
            "metadata",
            pa.struct(
                [
                    ("seek", pa.float32()),
                    ("duration", pa.float32()),
                    ("source", pa.string()),
                    ("entry_id", pa.string()),
                    ("quality_score", pa.float32()),
                ]
            ),
        ),
        ("has_prev", pa.bool_()),
        ("has_timestamps", pa.bool_()),
        ("prev_transcript", pa.string()),
    ]
)

SLICE_S = 30.0
_TICKS_PER_S = 50  # Whisper's time tokens stand on a grid of 0.02 s
_MARGIN_S = 0.06  # a segment opens a little before its first word and closes a little after its last


@dataclass(frozen=True, slots=True)
class _Segment:
    """A sentence in its entry. Times are ticks of 0.02 s from the beginning of the entry."""

    sentence: Sentence
    written: str
    speech: Speech
    speech_start_s: float
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class _Slice:
    """Consecutive segments that fit into 30 s, and where the next one opens if it begins in here but ends outside."""

    seek: int
    segments: tuple[_Segment, ...]
    cross_over: int | None


def slice_rows(
    entry: Entry, speeches: list[Speech], part: Part, rng: random.Random
) -> Iterator[tuple[dict[str, Any], list[dict[str, Any]]]]:
    """For each slice of the entry, the row of the dataset and the rows of the truth."""
    segments = _lay_out(entry, speeches, rng)
    recording = place(
        [(segment.speech_start_s, segment.speech) for segment in segments], segments[-1].end / _TICKS_PER_S + 0.3
    )
    recording = add_noise(recording * 10 ** (-rng.uniform(1, 12) / 20), rng.uniform(25, 45), seed=rng.getrandbits(64))
    previous = ""
    for piece in _cut(segments):
        # Its first sentence was judged badly aligned and dropped: still heard, no longer written.
        num_dropped = int(len(piece.segments) > 2 and rng.random() < 0.15)
        transcript = _transcript(piece, num_dropped)
        if entry.flaw == "no_text":
            transcript = "<|0.00|><|0.02|>"
        start = round(piece.seek / _TICKS_PER_S * SAMPLE_RATE)
        encoded = _encoded(recording[start : start + round(SLICE_S * SAMPLE_RATE)], entry)
        row = {
            "audio": {"bytes": encoded, "path": entry.key},
            "transcript": transcript,
            "metadata": {
                "seek": piece.seek / _TICKS_PER_S,
                "duration": SLICE_S,
                "source": "recital",
                "entry_id": entry.key,
                "quality_score": None if rng.random() < 0.15 else round(rng.uniform(0.82, 0.99), 3),
            },
            "has_prev": bool(previous),
            "has_timestamps": True,
            "prev_transcript": previous,
        }
        yield (
            row,
            [
                _truth(entry, part, piece, segment, UNTRANSCRIBED if number < num_dropped else None)
                for number, segment in enumerate(piece.segments)
            ],
        )
        previous = transcript


def _lay_out(entry: Entry, speeches: list[Speech], rng: random.Random) -> list[_Segment]:
    """One sentence after the other, with pauses of more than the 0.3 s below which the real writer merges segments."""
    segments = []
    now_s = rng.uniform(0.1, 0.4)
    for sentence, speech in zip(entry.sentences, speeches, strict=True):
        end_s = now_s + len(speech.samples) / SAMPLE_RATE
        segments.append(
            _Segment(
                sentence,
                dress(sentence, rng).strip(),
                speech,
                now_s,
                start=max(0, math.floor((now_s - _MARGIN_S) * _TICKS_PER_S)),
                end=math.ceil((end_s + _MARGIN_S) * _TICKS_PER_S),
            )
        )
        now_s = end_s + rng.uniform(0.5, 1.1)
    return segments


def _cut(segments: list[_Segment]) -> Iterator[_Slice]:
    """Slices as the real writer cuts them: the next begins where the first segment that does not fit opens."""
    seek = 0
    while segments:
        limit = seek + round(SLICE_S * _TICKS_PER_S)
        inside = tuple(segment for segment in segments if segment.end <= limit)
        segments = segments[len(inside) :]
        crosses = bool(segments) and segments[0].start < limit
        yield _Slice(seek, inside, segments[0].start if crosses else None)
        if segments:
            seek = segments[0].start


def _transcript(piece: _Slice, num_dropped: int) -> str:
    def token(ticks: int) -> str:
        return f"<|{(ticks - piece.seek) / _TICKS_PER_S:.2f}|>"

    written = "".join(
        f"{token(segment.start)} {segment.written}{token(segment.end)}" for segment in piece.segments[num_dropped:]
    )
    return written + (token(piece.cross_over) if piece.cross_over is not None else "")


def _encoded(samples: np.ndarray, entry: Entry) -> bytes:
    if entry.flaw == "garbage":
        return GARBAGE
    return encode(samples, SAMPLE_RATE, RECITAL_ENCODING)


def _truth(entry: Entry, part: Part, piece: _Slice, segment: _Segment, bad: str | None) -> dict[str, Any]:
    seek_s = piece.seek / _TICKS_PER_S
    is_heard = entry.flaw != "garbage"
    return truth_row(
        dataset=part.dataset,
        split=part.split,
        key=entry.key,
        seek_s=seek_s,
        start_s=(segment.start - piece.seek) / _TICKS_PER_S,
        end_s=(segment.end - piece.seek) / _TICKS_PER_S,
        sentence=segment.sentence,
        word_times=word_times(segment.speech, segment.speech_start_s - seek_s) if is_heard else [],
        written=segment.written,
        voice=entry.voice,
        bad=SLICE_FLAWS[entry.flaw] if entry.flaw else bad,
    )
