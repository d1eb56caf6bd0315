"""NeMo manifests: JSON lines, each an utterance, which may be a span of a longer file.

Neighbouring lines with an `offset` into one file are one recording with segments, so that it is decoded once.
"""

import math
import posixpath
import re
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

from caspi.corpus.rows import Chunk, Row, Segment
from caspi.corpus.sources import files, lines, tars
from caspi.corpus.sources.files import Problem
from caspi.corpus.sources.lines import MalformedLine
from caspi.errors import SourceError
from caspi.recipe.sources import NemoSource

_ROWS_PER_CHUNK = 64

# A tarred manifest that names a file twice numbers the names; the tar holds it once.
_REPEATED = re.compile(r"-sub\d+(?=\.\w+$|$)")


def plan(source: NemoSource, number: int) -> list[Chunk]:
    """Byte ranges of whole lines; lines of one recording stay together."""
    found = files.find_files(source.path, ".json", ".jsonl")
    first = None
    chunks = []
    for file in found:
        first = first or _first_line(file.path)
        for chunk in lines.cut(file, number, _ROWS_PER_CHUNK, partial(_recording_of, source)):
            chunks.append(replace(chunk, split=source.split))
    if first is None:
        raise SourceError(f"{source.path}: no line in it; expected one JSON object a line with audio_filepath")
    if source.tar_path is None and "shard_id" in first:
        raise SourceError(
            f"{source.path}: a tarred manifest, its lines have shard_id; say where the tars are, relative to it, "
            "with tar_path: audio_{shard_id}.tar"
        )
    return chunks


def _first_line(path: str) -> dict[str, Any] | None:
    """The first line that is JSON at all, which must be NeMo's."""
    was_empty = True
    with files.open_file(path) as opened:
        for line in opened:
            try:
                values = lines.parse_json(line)
            except MalformedLine:
                was_empty = was_empty and not line.strip()
                continue
            if "audio_filepath" not in values:
                raise SourceError(f"{path}: its lines have {', '.join(values)}; a NeMo manifest has audio_filepath")
            return values
    if was_empty:
        return None
    raise SourceError(f"{path}: not one line is JSON; expected one object a line with audio_filepath")


def _recording_of(source: NemoSource, line: bytes) -> tuple[str, str] | None:
    """What lines of one recording share; None for a line that is a row of its own, as a broken one is."""
    if b'"offset"' not in line:
        return None
    try:
        values = lines.parse_json(line)
        path = values.get("audio_filepath")
        if not _is_span(values) or not isinstance(path, str):
            return None
        _segment(values, "", source)
    except MalformedLine:
        return None
    return path, str(values.get("shard_id"))


def _is_span(values: dict[str, Any]) -> bool:
    return values.get("offset") is not None


def read(chunk: Chunk, source: NemoSource, name: str, refused_flags: frozenset[str]) -> Iterator[Row]:
    """One row for each recording: a line, or neighbouring lines with offsets into one file."""
    within = files.name_within(chunk.path, source.path)
    items = [
        (_recording_of(source, line), (f"{name}/{within}:{number + 1}", line)) for number, line in lines.read(chunk)
    ]
    for group in lines.grouped(items):
        yield _row(group, chunk, source)


def _row(group: list[tuple[str, bytes]], chunk: Chunk, source: NemoSource) -> Row:
    default_id = group[0][0]
    try:
        parsed = [(line_id, lines.parse_json(line)) for line_id, line in group]
        values = parsed[0][1]
        row_id = lines.text_of(values, source.id_key) or default_id
        segments = None
        if _is_span(values):
            # A group is called by its place: its segments have the ids.
            row_id = default_id if len(group) > 1 else row_id
            segments = _segments(parsed, source)
        transcript = None if segments else lines.transcript_of(values, source.text_key)
        path = values.get("audio_filepath")
        if not isinstance(path, str) or not path:
            raise MalformedLine("the line has no audio_filepath")
    except MalformedLine as error:
        return Row(default_id, default_id, None, split=chunk.split, problem=("malformed_row", str(error)))
    encoded, problem = _read_audio(values, path, chunk, source)
    file = _REPEATED.sub("", path) if source.tar_path else path
    return Row(
        row_id,
        recording_id=lines.text_of(values, source.recording_key) or file,
        transcript=transcript,
        encoded=encoded,
        path=files.resolve(path, chunk.path),
        speaker_id=None if segments else lines.text_of(values, source.speaker_key),
        split=chunk.split,
        segments=segments,
        problem=problem,
    )


def _segments(parsed: list[tuple[str, dict[str, Any]]], source: NemoSource) -> tuple[Segment, ...]:
    segments = [_segment(values, line_id, source) for line_id, values in parsed]
    return tuple(sorted(segments, key=lambda segment: segment.start_s))


def _segment(values: dict[str, Any], line_id: str, source: NemoSource) -> Segment:
    """A line's span.

    Raises:
        MalformedLine: it has an offset and no duration, or they are no times.
    """
    for key in ("offset", "duration"):
        time = values.get(key)
        if isinstance(time, bool) or not isinstance(time, int | float) or not math.isfinite(time) or time < 0:
            raise MalformedLine(f"{key} is {time!r}; expected seconds")
    start_s = float(values["offset"])
    return Segment(
        start_s,
        start_s + float(values["duration"]),
        lines.transcript_of(values, source.text_key) or "",
        lines.text_of(values, source.id_key) or line_id,
        lines.text_of(values, source.speaker_key),
    )


def _read_audio(
    values: dict[str, Any], path: str, chunk: Chunk, source: NemoSource
) -> tuple[bytes | None, Problem | None]:
    if source.tar_path is None:
        return files.read_audio(files.resolve(path, chunk.path))
    tar = files.resolve(source.tar_path.replace("{shard_id}", str(values.get("shard_id", ""))), chunk.path)
    found = files.find_file(tar)
    if found is None:
        return None, ("missing_audio", f"{tar}: no such tar")
    members = tars.index(tar, found.version)
    once = _REPEATED.sub("", path)
    for name in (path, once, posixpath.basename(once)):
        if name in members:
            start, size = members[name]
            return files.read_bytes(tar, start, start + size), None
    return None, ("missing_audio", f"{tar} holds no {path}")
