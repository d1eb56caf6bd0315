"""A Kaldi data folder: `wav.scp` says where recordings are, `segments` what is in them, `text` what is said.

Tables are read through indexes of where each line is, since they need not be sorted the same way, nor fit in memory.
"""

import json
import math
import posixpath
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from caspi.corpus.rows import Chunk, Row, Segment
from caspi.corpus.sources import files, lines, rxfilename
from caspi.corpus.sources.files import File, Problem
from caspi.corpus.sources.lines import LineIndex, MalformedLine
from caspi.errors import SourceError
from caspi.recipe.sources import KaldiSource

_RECORDINGS_PER_CHUNK = 64

# Those with segments are long: calls, meetings, broadcasts.
_LONG_RECORDINGS_PER_CHUNK = 8

# Of the tables, how many keys are looked up at once.
_KEYS_AT_ONCE = 2**16


def plan(source: KaldiSource, number: int) -> list[Chunk]:
    """Ranges of `wav.scp`; then utterances that belong to no recording, as rows to be refused and counted."""
    tables = _Tables.find(source.path)
    per_chunk = _LONG_RECORDINGS_PER_CHUNK if tables.segments else _RECORDINGS_PER_CHUNK
    common = {"split": source.split, "version": tables.version}
    chunks = [replace(chunk, **common) for chunk in lines.cut(tables.wav_scp, number, per_chunk)]  # type: ignore[arg-type]
    if not chunks:
        raise SourceError(f"{tables.wav_scp.path}: no line in it; expected RECORDING PATH")
    lost = [json.dumps(problem, ensure_ascii=False) for problem in _lost_utterances(tables)]
    for first in range(0, len(lost), _RECORDINGS_PER_CHUNK):
        part = lost[first : first + _RECORDINGS_PER_CHUNK]
        chunks.append(Chunk(number, tables.text.path, len(part), first, files=part, **common))  # type: ignore[arg-type]
    return chunks


@dataclass(frozen=True, slots=True)
class _Tables:
    """The files of a data folder that we read."""

    wav_scp: File
    text: File
    segments: File | None
    utt2spk: File | None

    @classmethod
    def find(cls, path: str) -> "_Tables":
        if not files.is_folder(path):
            raise SourceError(f"{path}: no such folder; expected a Kaldi data folder")
        found = {
            name: files.find_file(posixpath.join(path, name)) for name in ("wav.scp", "text", "segments", "utt2spk")
        }
        wav_scp, text = found["wav.scp"], found["text"]
        if wav_scp is None or text is None:
            missing = " and no ".join(name for name in ("wav.scp", "text") if found[name] is None)
            raise SourceError(f"{path}: no {missing} in this folder; a Kaldi data folder has wav.scp and text")
        return cls(wav_scp, text, found["segments"], found["utt2spk"])

    @property
    def version(self) -> str:
        """Of all four: an utterance depends on a line of each."""
        return files.version_of([self.wav_scp, self.text, self.segments, self.utt2spk])


def _lost_utterances(tables: _Tables) -> Iterator[tuple[str, str, str]]:
    """Id, reason and detail of what is in `text` or `segments` and has no audio."""
    recordings = _index(tables.wav_scp)
    if tables.segments is None:
        yield from _not_in(recordings, tables.text, "missing_audio", "the utterance is in text and not in wav.scp")
        return
    for number, line in enumerate(lines.open_lines(tables.segments.path), 1):
        if line.strip():
            try:
                _parse_segment(line)
            except MalformedLine as error:
                first = (lines.first_word(line) or b"").decode("utf-8", "replace")
                yield f"{first}@segments:{number}", "malformed_row", str(error)
    segmented = _index(tables.segments)
    yield from _not_in(segmented, tables.text, "missing_audio", "the utterance is in text and not in segments")
    yield from _not_in(recordings, tables.segments, "missing_audio", "its recording is not in wav.scp", _recording_of)


def _recording_of(line: bytes) -> bytes | None:
    try:
        return _parse_segment(line).recording
    except MalformedLine:
        return None  # a row of its own already


def _not_in(
    index: LineIndex, table: File, reason: str, detail: str, named_by: lines.KeyOf = lines.first_word
) -> Iterator[tuple[str, str, str]]:
    """A problem for each line of a table whose key is not in the index."""
    ids: list[bytes] = []
    keys: list[bytes] = []

    def absent() -> Iterator[tuple[str, str, str]]:
        for place in np.flatnonzero(~index.holds(keys)):
            yield ids[place].decode("utf-8", "replace"), reason, detail
        ids.clear()
        keys.clear()

    for line in lines.open_lines(table.path):
        first, key = lines.first_word(line), named_by(line)
        if first is not None and key is not None:
            ids.append(first)
            keys.append(key)
        if len(keys) == _KEYS_AT_ONCE:
            yield from absent()
    yield from absent()


def _index(table: File, key_of: lines.KeyOf = lines.first_word) -> LineIndex:
    return lines.index(table.path, table.version, key_of)


def read(chunk: Chunk, source: KaldiSource, name: str, refused_flags: frozenset[str]) -> Iterator[Row]:
    """One row for each recording, with its segments where there is such a table."""
    if chunk.files:
        for row_id, reason, detail in map(json.loads, chunk.files):
            yield Row(row_id, row_id, None, path=chunk.path, split=chunk.split, problem=(reason, detail))
        return
    tables = _Tables.find(source.path)
    entries = [(number, *_split_line(line)) for number, line in lines.read(chunk)]
    recordings = [key for _, key, _ in entries]
    segments = _read_segments(tables, recordings) if tables.segments else None
    utterances = recordings if segments is None else [one.utterance for found in segments.values() for one in found]
    said, speakers = _Sayings(tables.text, utterances), _Sayings(tables.utt2spk, utterances)
    for number, key, location in entries:
        if segments is None:
            yield _row(key, location, chunk, source, f"{name}:{number + 1}", said, speakers)
        else:
            yield _long_row(key, location, chunk, source, f"{name}:{number + 1}", segments.get(key, []), said, speakers)


class _Sayings:
    """What a table says of some utterances: their texts, their speakers."""

    def __init__(self, table: File | None, utterances: Sequence[bytes]) -> None:
        found = _index(table).find(utterances) if table else {}
        self._said = {key: _split_line(said[0])[1] for key, said in found.items()}

    def __getitem__(self, utterance: bytes) -> str | None:
        """None where the table has no such line; broken letters come back as U+FFFD."""
        said = self._said.get(utterance)
        return None if said is None else said.decode("utf-8", "replace")

    def is_text(self, utterance: bytes) -> bool:
        """Whether all of it is UTF-8."""
        try:
            self._said.get(utterance, b"").decode()
        except UnicodeDecodeError:
            return False
        return True


@dataclass(frozen=True, slots=True)
class _Segment:
    utterance: bytes
    recording: bytes
    start_s: float
    end_s: float


def _read_segments(tables: _Tables, recordings: Sequence[bytes]) -> dict[bytes, list[_Segment]]:
    """The segments of each recording, in the order of time. Broken lines are rows of their own, see `plan`."""
    assert tables.segments is not None
    found: dict[bytes, list[_Segment]] = {}
    for recording, texts in _index(tables.segments, lines.second_word).find(recordings).items():
        for line in texts:
            try:
                found.setdefault(recording, []).append(_parse_segment(line))
            except MalformedLine:
                continue
    return {recording: sorted(segments, key=lambda one: one.start_s) for recording, segments in found.items()}


def _parse_segment(line: bytes) -> _Segment:
    """`UTTERANCE RECORDING START END`, perhaps with a channel. An end of -1 is that of the recording."""
    words = line.split()
    try:
        utterance, recording, start_s, end_s = words[0], words[1], float(words[2]), float(words[3])
    except (IndexError, ValueError):
        raise MalformedLine("expected UTTERANCE RECORDING START END in segments, times in seconds") from None
    if not (math.isfinite(start_s) and math.isfinite(end_s)):
        raise MalformedLine(f"the segment runs from {start_s} s to {end_s} s")
    return _Segment(utterance, recording, start_s, math.inf if end_s == -1 else end_s)


def _split_line(line: bytes) -> tuple[bytes, bytes]:
    """A table's key and what it says of it."""
    key, *rest = line.strip().split(None, 1)
    return key, rest[0] if rest else b""


def _row(
    key: bytes, location: bytes, chunk: Chunk, source: KaldiSource, default_id: str, said: _Sayings, speakers: _Sayings
) -> Row:
    row_id = _id(key, default_id)
    path, encoded, problem = _read_audio(location, source)
    if said[key] is None:
        problem = problem or ("missing_text", "the recording is in wav.scp and not in text")
    elif not said.is_text(key):
        problem = problem or ("malformed_row", "its line in text is not UTF-8")
    return Row(row_id, row_id, said[key], encoded, path, speakers[key] or None, chunk.split, problem=problem)


def _long_row(
    key: bytes, location: bytes, chunk: Chunk, source: KaldiSource, default_id: str, segments: Sequence[_Segment],
    said: _Sayings, speakers: _Sayings,
) -> Row:  # fmt: skip
    row_id = _id(key, default_id)
    path, encoded, problem = _read_audio(location, source)
    if not segments:
        problem = problem or ("missing_text", "the recording is in wav.scp, and no line of segments names it")
    spoken = tuple(
        Segment(
            one.start_s,
            one.end_s,
            said[one.utterance] or "" if said.is_text(one.utterance) else "",
            one.utterance.decode("utf-8", "replace"),
            speakers[one.utterance] or None,
        )
        for one in segments
    )
    return Row(row_id, row_id, None, encoded, path, split=chunk.split, segments=spoken, problem=problem)


def _id(key: bytes, default_id: str) -> str:
    try:
        return key.decode()
    except UnicodeDecodeError:
        return default_id


def _read_audio(location: bytes, source: KaldiSource) -> tuple[str, bytes | None, Problem | None]:
    """Path, content and what is wrong, of what `wav.scp` says."""
    try:
        place = rxfilename.parse(location.decode())
    except UnicodeDecodeError:
        return "", None, ("malformed_row", "its line in wav.scp is not UTF-8")
    except rxfilename.Unsupported as error:
        return location.decode(), None, (error.reason, str(error))
    path = place.path if "://" in place.path else posixpath.join(source.audio_root or source.path, place.path)
    if place.offset is None:
        return path, *files.read_audio(path)
    return f"{path}:{place.offset}", *_read_archive(path, place.offset)


def _read_archive(path: str, offset: int) -> tuple[bytes | None, Problem | None]:
    """The WAV at an offset of a Kaldi archive. It says itself how long it is."""
    if files.find_file(path) is None:
        return None, ("missing_audio", f"{path}: no such archive")
    head = files.read_bytes(path, offset, offset + 12)
    if head[:4] != b"RIFF" or head[8:] != b"WAVE":
        return None, (
            "unsupported_archive",
            f"{path} holds no WAV at byte {offset}, but {head[:8]!r}; only WAV is read",
        )
    size = int.from_bytes(head[4:8], "little") + 8
    return files.read_bytes(path, offset, offset + size), None
