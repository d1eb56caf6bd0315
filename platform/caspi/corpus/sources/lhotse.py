"""Lhotse's manifests: cuts, or recordings with supervisions. The library says what their lines mean; we read them.

Neighbouring cuts of one recording are one row with a segment for each supervision, so that it is decoded once.
"""

import importlib
import json
import math
import posixpath
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import lru_cache
from itertools import islice
from typing import Any

from caspi.corpus.rows import Chunk, Row, Segment
from caspi.corpus.sources import files, lines
from caspi.corpus.sources.files import File, Problem
from caspi.corpus.sources.lines import MalformedLine
from caspi.errors import SourceError
from caspi.recipe.sources import LhotseSource

_SUFFIXES = (".jsonl", ".jsonl.gz")
_ROWS_PER_CHUNK = 64

# Gzip can only be read from its beginning: each task unpacks what comes before its lines, so there are few tasks.
_MAX_CHUNKS_PER_GZIP = 256

# Times in manifests are rounded.
_TOLERANCE_S = 0.01


def plan(source: LhotseSource, number: int) -> list[Chunk]:
    """Ranges of lines; neighbouring cuts of one recording stay together. Then supervisions without a recording."""
    _library()
    found = files.find_files(source.path, *_SUFFIXES)
    supervisions = _find_supervisions(source)
    _check(source, _first(found), supervisions)
    version = files.version_of(supervisions) if supervisions else ""
    chunks = []
    for file in found:
        cut = (
            _cut_gzip(file, number) if file.path.endswith(".gz") else lines.cut(file, number, _ROWS_PER_CHUNK, _shared)
        )
        chunks += [replace(chunk, split=source.split, version=chunk.version + version) for chunk in cut]
    if supervisions:
        chunks += _plan_lost(source, number, found, supervisions)
    return chunks


def _library() -> Any:
    try:
        return importlib.import_module("lhotse.serialization")
    except ImportError as error:
        raise SourceError("kind: lhotse needs the library; pip install 'caspi[lhotse]'") from error


def _find_supervisions(source: LhotseSource) -> list[File]:
    return files.find_files(source.supervisions, *_SUFFIXES) if source.supervisions else []


def _first(found: list[File]) -> dict[str, Any]:
    for file in found:
        for line in lines.open_lines(file.path):
            try:
                return lines.parse_json(line)
            except MalformedLine:
                continue
    return {}


def _check(source: LhotseSource, first: dict[str, Any], supervisions: list[File]) -> None:
    """That `path` holds what its use says."""
    if "sources" in first and not supervisions:
        raise SourceError(f"{source.path}: recordings; say which `supervisions` belong to them, or give cuts")
    if "shard_origin" in first or ("features" in first and not (first.get("recording"))):
        raise SourceError(f"{source.path}: cuts without their recordings (features or Shar); only audio is read")
    expected = "sources" if supervisions else "type"
    if expected not in first:
        what = "recordings" if supervisions else "cuts"
        raise SourceError(f"{source.path}: not Lhotse's {what}; its lines have {', '.join(first) or 'no JSON object'}")


def _cut_gzip(file: File, number: int) -> Iterator[Chunk]:
    """Chunks by line numbers: `start` and `stop` count lines here."""
    num_rows = sum(1 for _ in _grouped(file.path))
    per_chunk = max(_ROWS_PER_CHUNK, -(-num_rows // _MAX_CHUNKS_PER_GZIP))
    groups = _grouped(file.path)
    while part := list(islice(groups, per_chunk)):
        first, stop = part[0][0][0], part[-1][-1][0] + 1
        yield Chunk(number, file.path, len(part), first, first, stop, version=file.version)


def _grouped(path: str) -> Iterator[list[tuple[int, bytes]]]:
    numbered = enumerate(line for line in lines.open_lines(path) if line.strip())
    return lines.grouped((_shared(line), (number, line)) for number, line in numbered)


def _shared(line: bytes) -> str | None:
    """The recording of a cut, which neighbouring lines may share; None for what is a row of its own."""
    if b'"recording"' not in line:
        return None
    try:
        values = lines.parse_json(line)
        recording = values.get("recording")
        return json.dumps(recording, sort_keys=True) if recording and values.get("type") == "MonoCut" else None
    except MalformedLine:
        return None


def _plan_lost(source: LhotseSource, number: int, found: list[File], supervisions: list[File]) -> Iterator[Chunk]:
    """A row for each recording that supervisions name and nobody has."""
    known = {values.get("id") for file in found for values in _parsed(file.path)}
    lost = sorted(str(recording) for recording in _supervisions_of(tuple(supervisions)) if recording not in known)
    for first in range(0, len(lost), _ROWS_PER_CHUNK):
        part = lost[first : first + _ROWS_PER_CHUNK]
        version = files.version_of([*found, *supervisions])
        yield Chunk(number, supervisions[0].path, len(part), first, files=part, split=source.split, version=version)


def _parsed(path: str) -> Iterator[dict[str, Any]]:
    for line in lines.open_lines(path):
        try:
            yield lines.parse_json(line)
        except MalformedLine:
            continue


@lru_cache(maxsize=2)
def _supervisions_of(found: tuple[File, ...]) -> dict[Any, list[dict[str, Any]]]:
    """The supervisions of each recording. They are kept in memory; cuts are the form for large corpora."""
    by_recording: dict[Any, list[dict[str, Any]]] = {}
    for file in found:
        for values in _parsed(file.path):
            by_recording.setdefault(values.get("recording_id"), []).append(values)
    return by_recording


def read(chunk: Chunk, source: LhotseSource, name: str, refused_flags: frozenset[str]) -> Iterator[Row]:
    """One row for each recording, or for neighbouring cuts of one."""
    for recording in chunk.files:
        problem = "missing_audio", "supervisions name this recording, and it is not among the recordings"
        yield Row(recording, recording, None, path=chunk.path, split=chunk.split, problem=problem)
    if chunk.files:
        return
    within = files.name_within(chunk.path, source.path)
    numbered = _read_gzip(chunk) if chunk.path.endswith(".gz") else lines.read(chunk)
    supervisions = tuple(_find_supervisions(source))
    for group in lines.grouped((_shared(line), (number, line)) for number, line in numbered):
        default_id = f"{name}/{within}:{group[0][0] + 1}"
        try:
            yield _row([lines.parse_json(line) for _, line in group], chunk, source, supervisions)
        except MalformedLine as error:
            yield Row(default_id, default_id, None, split=chunk.split, problem=("malformed_row", str(error)))


def _read_gzip(chunk: Chunk) -> Iterable[tuple[int, bytes]]:
    numbered = enumerate(line for line in lines.open_lines(chunk.path) if line.strip())
    return islice(numbered, chunk.start, chunk.stop)


def _row(group: list[dict[str, Any]], chunk: Chunk, source: LhotseSource, supervisions: tuple[File, ...]) -> Row:
    """
    Raises:
        MalformedLine: a line is not what Lhotse would read.
    """
    items = [_deserialize(values) for values in group]
    kind = type(items[0]).__name__
    if kind == "Recording":
        recording = items[0]
        spoken = [_deserialize(values) for values in _supervisions_of(supervisions).get(recording.id, [])]
        segments, row_id, problem = [_segment(one, 0.0) for one in spoken], recording.id, None
        channels = {one.channel for one in spoken if isinstance(one.channel, int)}
    elif kind == "MonoCut":
        recording, row_id, problem = items[0].recording, items[0].id, None
        segments = [_segment(one, cut.start) for cut in items for one in cut.supervisions]
        channels = {cut.channel for cut in items}
    else:
        problem = "unsupported_cut", f"a {kind}; only cuts of one channel of one recording are read"
        return Row(items[0].id, items[0].id, None, path=chunk.path, split=chunk.split, problem=problem)
    if recording is None:
        raise MalformedLine("the cut has no recording; only audio is read, no features")
    problem = _misfit(recording, channels) or (
        None if segments else ("missing_text", "no supervision says what is said")
    )
    path, encoded = "", None
    if problem is None:
        path = _locate(recording.sources[0].source, chunk, source)
        encoded, problem = files.read_audio(path)
    row = Row(row_id, recording.id, None, encoded, path, split=chunk.split, problem=problem)
    segments = sorted(segments, key=lambda one: one.start_s)
    if len(segments) == 1 and _is_whole(segments[0], recording):
        (whole,) = segments
        return replace(
            row, row_id=whole.segment_id or row_id, transcript=whole.text, speaker_id=whole.speaker_id or None
        )
    return replace(row, segments=tuple(segments))


def _deserialize(values: dict[str, Any]) -> Any:
    try:
        return _library().deserialize_item(dict(values))
    except (KeyError, TypeError, ValueError, AttributeError, AssertionError) as error:
        raise MalformedLine(f"Lhotse cannot read the line: {type(error).__name__}: {error}") from error


def _segment(supervision: Any, offset_s: float) -> Segment:
    start_s = offset_s + supervision.start
    if not (math.isfinite(start_s) and math.isfinite(supervision.duration)):
        raise MalformedLine(f"supervision {supervision.id} runs from {start_s} s for {supervision.duration} s")
    return Segment(
        max(start_s, 0.0), start_s + supervision.duration, supervision.text or "", supervision.id, supervision.speaker
    )


def _is_whole(segment: Segment, recording: Any) -> bool:
    assert segment.end_s is not None
    return segment.start_s <= _TOLERANCE_S and segment.end_s >= recording.duration - _TOLERANCE_S


def _misfit(recording: Any, channels: set[int]) -> Problem | None:
    """Why the audio that Lhotse means is not simply that of a file."""
    if len(recording.sources) != 1:
        return "unsupported_audio_source", f"{len(recording.sources)} files for one recording; one was expected"
    if recording.sources[0].type not in ("file", "url"):
        return "unsupported_audio_source", f"a source of type {recording.sources[0].type}; expected file or url"
    if recording.transforms:
        return "unsupported_audio_source", f"the recording is changed when it is read: {recording.transforms}"
    if len(recording.sources[0].channels) > 1 and len(channels) == 1:
        return "unsupported_channel", f"only channel {channels.pop()} of {len(recording.sources[0].channels)} is meant"
    return None


def _locate(path: Any, chunk: Chunk, source: LhotseSource) -> str:
    path = str(path)
    if source.audio_root and "://" not in path:
        return posixpath.join(source.audio_root, path)
    return files.resolve(path, chunk.path)
