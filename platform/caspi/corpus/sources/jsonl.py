"""JSON lines, one recording a line, audio in files beside them: Qwen3-ASR's own training format, and most people's."""

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from caspi.corpus.format import SPLITS
from caspi.corpus.rows import Chunk, Row
from caspi.corpus.sources import files, lines
from caspi.corpus.sources.lines import MalformedLine
from caspi.errors import SourceError
from caspi.recipe.sources import JsonlSource

# Each line is a file to open, so a few make a task worth its start.
_ROWS_PER_CHUNK = 64

_QWEN_PREFIX = re.compile(r"^\s*language\s+[^<]*<asr_text>")

# What people call the splits.
_SPLIT_NAMES = {name: name for name in SPLITS} | {"dev": "validation", "valid": "validation", "val": "validation"}


def plan(source: JsonlSource, number: int) -> list[Chunk]:
    """Byte ranges of whole lines."""
    found = files.find_files(source.path, ".jsonl")
    chunks = [
        replace(chunk, split=source.split) for file in found for chunk in lines.cut(file, number, _ROWS_PER_CHUNK)
    ]
    if not chunks:
        raise SourceError(f"{source.path}: no line in it; expected one JSON object a line")
    return chunks


def read(chunk: Chunk, source: JsonlSource, name: str, refused_flags: frozenset[str]) -> Iterator[Row]:
    """One row for each line, also for lines that are broken or whose file is missing."""
    within = files.name_within(chunk.path, source.path)
    for number, line in lines.read(chunk):
        default_id = f"{name}/{within}:{number + 1}"
        try:
            values = lines.parse_json(line)
        except MalformedLine as error:
            yield Row(default_id, default_id, None, split=chunk.split, problem=("malformed_row", str(error)))
        else:
            yield _row(values, chunk, source, default_id)


def _row(values: dict[str, Any], chunk: Chunk, source: JsonlSource, default_id: str) -> Row:
    row_id = lines.text_of(values, source.id_key) or default_id
    split = chunk.split or lines.text_of(values, source.split_key)
    problem = None
    if split is not None and split not in _SPLIT_NAMES:
        problem = "unknown_split", f"{source.split_key} is {split!r}; expected one of {', '.join(SPLITS)}"
    transcript = None
    try:
        transcript = lines.transcript_of(values, source.text_key)
    except MalformedLine as error:
        problem = "malformed_row", str(error)
    path, encoded = values.get(source.audio_key), None
    if not isinstance(path, str) or not path:
        problem = problem or ("missing_audio", f"the line has no {source.audio_key}")
        path = ""
    elif problem is None:
        path = files.resolve(path, chunk.path)
        encoded, problem = files.read_audio(path)
    return Row(
        row_id=row_id,
        recording_id=lines.text_of(values, source.recording_key) or row_id,
        transcript=None if transcript is None else _QWEN_PREFIX.sub("", transcript),
        encoded=encoded,
        path=path,
        speaker_id=lines.text_of(values, source.speaker_key),
        split=_SPLIT_NAMES.get(split) if split else None,
        problem=problem,
    )
