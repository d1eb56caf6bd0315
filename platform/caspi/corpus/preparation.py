"""What becomes of one row: utterances, refusals, or both. A plain object, tested and tried without a cluster."""

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol

import numpy as np

from caspi import audio
from caspi.audio import Audio
from caspi.audio.measures import measure
from caspi.corpus import cutting
from caspi.corpus.cutting import Span
from caspi.corpus.format import LISTEN_S
from caspi.corpus.judging import judge_row, judge_sound, judge_text
from caspi.corpus.leakage import HeldOut
from caspi.corpus.rows import Prepared, Refusal, Row, Segment
from caspi.errors import AudioError
from caspi.recipe.data import Data
from caspi.text import normalizer


class Decoder(Protocol):
    """Bytes to samples, as `audio.decode` does."""

    def __call__(self, encoded: bytes, *, source: str, max_duration_s: float) -> Audio: ...


@dataclass(frozen=True, slots=True)
class Sound:
    """A decoded recording and what was found in it."""

    audio: Audio
    samples: np.ndarray  # (num_samples,) int16: what the corpus keeps
    speech: list[tuple[float, float]] | None  # None: not looked for

    @property
    def duration_s(self) -> float:
        return self.audio.duration_s


class Preparer:
    """Turns rows into utterances and refusals, as one recipe says. One for each task."""

    def __init__(self, data: Data, *, decode: Decoder = audio.decode, held_out: HeldOut | None = None) -> None:
        self._data = data
        self._decode = decode
        self._held_out = held_out
        self._normalizer = normalizer(data.language)

    def prepare(self, row: Row) -> Iterator[Prepared | Refusal]:
        """Decode, cut, normalize, judge. At least one outcome for every row."""
        verdict = judge_row(row, self._data.filters) or self._judge_leak(row.row_id, row.recording_id)
        if verdict:
            yield Refusal(row.row_id, *verdict, text=row.transcript, example=partial(self._example, row))
            return
        try:
            sound = self._listen(row)
        except AudioError as error:  # only what one bad recording explains; anything else stops the job
            yield Refusal(row.row_id, error.reason, str(error), text=row.transcript)
            return
        leak = self._held_out and self._held_out.find_audio(digest(sound.samples))
        if leak:
            verdict = ("in_evaluation_set", leak)
            yield self._refuse(row.row_id, verdict, row.transcript, sound, 0.0, sound.duration_s, is_whole=True)
            return
        yield from self._utterances(row, sound)

    def _decoded(self, row: Row) -> Audio:
        assert row.encoded is not None, "judge_row refuses rows without audio"
        bound_s = self._data.decoding.max_recording_s
        return self._decode(row.encoded, source=row.path or row.row_id, max_duration_s=bound_s)

    def _listen(self, row: Row) -> Sound:
        decoded = self._decoded(row)
        return Sound(decoded, audio.quantize(decoded.samples), self._find_speech(decoded.samples))

    def _find_speech(self, samples: np.ndarray) -> list[tuple[float, float]] | None:
        cut = self._data.cutting
        if not (cut.voice_activity or cut.trim_silence or self._data.filters.min_speech_share > 0):
            return None
        from caspi.audio.speech import find_speech  # loads a model, which most preparations do without

        return find_speech(samples)

    def _utterances(self, row: Row, sound: Sound) -> Iterator[Prepared | Refusal]:
        previous = self._previous_text(row)
        if row.segments is None and not (row.is_timed and cutting.has_timestamps(row.transcript or "")):
            whole = Segment(0.0, sound.duration_s, row.transcript or "", row.row_id, row.speaker_id)
            yield self._finish(Span(0.0, sound.duration_s, (whole,)), row.row_id, sound, previous)
            return
        spans: list[tuple[str, Span]] = []
        for outcome in self._cut(row, sound):
            if isinstance(outcome, Refusal):
                yield outcome
            else:
                spans.append(outcome)
        for utterance_id, span in spans:
            yield self._finish(span, utterance_id, sound, previous)
            previous = self._normalizer.transcript(span.text) or previous

    def _cut(self, row: Row, sound: Sound) -> Iterator[tuple[str, Span] | Refusal]:
        """The segments of a row, fitted to its audio and joined; refusals first."""
        segments = cutting.parse(row.transcript or "") if row.segments is None else list(row.segments)
        if not segments:
            yield Refusal(row.row_id, "empty_text", "timestamps without words")
        names: dict[int, str] = {}
        spans = []
        for number, segment in enumerate(segments):
            segment_id = segment.segment_id or f"{row.row_id}-{number:03d}"
            segment = replace(segment, speaker_id=segment.speaker_id or row.speaker_id)
            span = cutting.fit(segment, sound.duration_s)
            if isinstance(span, str):
                yield Refusal(
                    segment_id, "bad_timestamps", span, segment.start_s, segment.end_s, segment.text,
                    example=partial(_encode_example, sound.audio, segment.start_s),
                )  # fmt: skip
            elif (
                self._data.filters.refuse_empty_text and not segment.text.strip()
            ):  # alone, so that it does not vanish into a neighbour
                yield Refusal(segment_id, "empty_text", "no transcript", segment.start_s, segment.end_s)
            else:
                names[id(span.segments[0])] = segment_id
                spans.append(span)
        for span in cutting.join(spans, self._data.cutting, self._data.filters.max_duration_s):
            more = len(span.segments) - 1
            yield names[id(span.segments[0])] + (f"+{more}" if more else ""), span

    def _finish(self, span: Span, utterance_id: str, sound: Sound, previous: str | None) -> Prepared | Refusal:
        """Trim and judge a span, and encode it if it is kept."""
        start_s, end_s, speech_s = self._trim(span, sound)
        rate = sound.audio.sample_rate
        first, last = round(start_s * rate), round(end_s * rate)
        duration_s = (last - first) / rate
        text = self._normalizer.transcript(span.text)
        filters = self._data.filters
        verdict = judge_text(text, self._data.language, duration_s, filters)
        if verdict:
            return self._refuse(utterance_id, verdict, text, sound, start_s, end_s)
        measures = measure(sound.audio.samples[first:last], rate)
        verdict = judge_sound(measures, speech_s, duration_s, filters)
        if verdict:
            return self._refuse(utterance_id, verdict, text, sound, start_s, end_s)
        encoded = audio.encode_flac(sound.samples[first:last])
        audio_digest = audio.samples_md5(encoded)
        leak = self._held_out and self._held_out.find_audio(audio_digest)
        if leak:
            return self._refuse(utterance_id, ("in_evaluation_set", leak), text, sound, start_s, end_s)
        return Prepared(
            utterance_id, encoded, duration_s, self._kept_text(span, text), start_s, end_s, span.speaker_id, previous,
            measures, audio_digest, speech_s, sound.audio.native_sample_rate or rate, sound.audio.codec or "unknown",
        )  # fmt: skip

    def _kept_text(self, span: Span, normalized: str) -> str:
        if self._data.transcripts == "normalized":
            return normalized
        return span.text.encode("utf-8", "replace").decode()  # without lone surrogates, which no file could hold

    def _trim(self, span: Span, sound: Sound) -> tuple[float, float, float | None]:
        """Start, end and seconds of speech of what is left of a span."""
        if sound.speech is None:
            return span.start_s, span.end_s, None
        heard = [
            (max(start, span.start_s), min(end, span.end_s))
            for start, end in sound.speech
            if start < span.end_s and end > span.start_s
        ]
        speech_s = sum(end - start for start, end in heard)
        if not self._data.cutting.trim_silence or not heard:
            return span.start_s, span.end_s, speech_s
        margin = self._data.cutting.trim_margin_s
        return max(span.start_s, heard[0][0] - margin), min(span.end_s, heard[-1][1] + margin), speech_s

    def _refuse(
        self,
        utterance_id: str,
        verdict: tuple[str, str],
        text: str | None,
        sound: Sound,
        start_s: float,
        end_s: float,
        *,
        is_whole: bool = False,
    ) -> Refusal:
        """A refusal that one can listen to."""
        start, end = (None, None) if is_whole else (start_s, end_s)
        return Refusal(
            utterance_id, *verdict, start, end, text=text,
            example=partial(_encode_example, sound.audio, start_s, end_s),
        )  # fmt: skip

    def _example(self, row: Row) -> bytes | None:
        """What a row sounds like that was refused before it was decoded."""
        try:
            return _encode_example(self._decoded(row), 0.0) if row.encoded else None
        except AudioError:
            return None

    def _judge_leak(self, *ids: str) -> tuple[str, str] | None:
        leak = self._held_out and self._held_out.find_id(*ids)
        return ("in_evaluation_set", leak) if leak else None

    def _previous_text(self, row: Row) -> str | None:
        return (self._normalizer.transcript(row.previous_text) or None) if row.previous_text else None


def _encode_example(recording: Audio, start_s: float, end_s: float = math.inf) -> bytes | None:
    """The first seconds of a span; None where there is no sound in it."""
    first, last = (round(time_s * recording.sample_rate) for time_s in (start_s, min(end_s, start_s + LISTEN_S)))
    heard = recording.samples[max(first, 0) : last]
    return audio.encode_mp3(heard, recording.sample_rate) if len(heard) else None


def digest(samples: np.ndarray) -> bytes:
    """16 bytes over int16 samples, those that their FLAC file would carry: equal sound, equal digest."""
    return hashlib.md5(samples.astype("<i2", copy=False).tobytes(), usedforsecurity=False).digest()
