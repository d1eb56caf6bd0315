"""JSON lines, one recording a line, audio in files beside them: Qwen3-ASR's own training format, and most people's."""

import json
import posixpath
import re
from collections.abc import Iterator
from typing import Any

from caspi.corpus.format import SPLITS
from caspi.corpus.rows import Chunk, Row
from caspi.corpus.sources import files
from caspi.errors import SourceError
from caspi.recipe.sources import JsonlSource

# Each line is a file to open, so a few make a task worth its start.
_ROWS_PER_CHUNK = 64

_QWEN_PREFIX = re.compile(r"^\s*language\s+[^<]*<asr_text>")

# What people call the splits.
_SPLIT_NAMES = {name: name for name in SPLITS} | {"dev": "validation", "valid": "validation", "val": "validation"}


def plan(source: JsonlSource, number: int) -> list[Chunk]:
    """Byte ranges of whole lines. Blank lines are no rows."""
    chunks = []
    for path in files.find_files(source.path, ".jsonl"):
        start = stop = num_rows = first_row = 0
        filesystem, inner = files.open_filesystem(path)
        with filesystem.open(inner, "rb") as lines:
            for line in lines:
                stop += len(line)
                num_rows += bool(line.strip())
                if num_rows == _ROWS_PER_CHUNK:
                    chunks.append(_chunk(source, number, path, start, stop, first_row, num_rows))
                    start, first_row, num_rows = stop, first_row + num_rows, 0
        if num_rows:
            chunks.append(_chunk(source, number, path, start, stop, first_row, num_rows))
    if not chunks:
        raise SourceError(f"{source.path}: no line in it; expected one JSON object a line")
    return chunks


def _chunk(source: JsonlSource, number: int, path: str, start: int, stop: int, first_row: int, num_rows: int) -> Chunk:
    return Chunk(number, path, num_rows, first_row, start, stop, split=source.split)


def read(chunk: Chunk, source: JsonlSource, name: str) -> Iterator[Row]:
    """One row for each line, also for lines that are broken or whose file is missing."""
    lines = [line for line in files.read_bytes(chunk.path, chunk.start, chunk.stop).split(b"\n") if line.strip()]
    within = files.name_within(chunk.path, source.path)
    for number, line in enumerate(lines, chunk.first_row):
        default_id = f"{name}/{within}:{number + 1}"
        try:
            values = json.loads(line)
        except ValueError as error:
            yield _broken(default_id, f"not JSON: {error}")
            continue
        if isinstance(values, dict):
            yield _row(values, chunk, source, default_id)
        else:
            yield _broken(default_id, f"expected a JSON object, found {type(values).__name__}")


def _row(values: dict[str, Any], chunk: Chunk, source: JsonlSource, default_id: str) -> Row:
    row_id = _text(values, source.id_key) or default_id
    split = chunk.split or _text(values, source.split_key)
    problem = None
    if split is not None and split not in _SPLIT_NAMES:
        problem = "unknown_split", f"{source.split_key} is {split!r}; expected one of {', '.join(SPLITS)}"
    transcript = values.get(source.text_key)
    if transcript is not None and not isinstance(transcript, str):
        problem = "malformed_row", f"{source.text_key} is {type(transcript).__name__}; expected a string"
        transcript = None
    path, encoded = values.get(source.audio_key), None
    if not isinstance(path, str) or not path:
        problem = problem or ("missing_audio", f"the line has no {source.audio_key}")
        path = ""
    elif problem is None:
        path = path if "://" in path else posixpath.join(posixpath.dirname(chunk.path), path)
        try:
            encoded = files.read_bytes(path)
        except (FileNotFoundError, IsADirectoryError):
            problem = "missing_audio", f"{path}: no such file"
    return Row(
        row_id=row_id,
        recording_id=_text(values, source.recording_key) or row_id,
        transcript=None if transcript is None else _QWEN_PREFIX.sub("", transcript),
        encoded=encoded,
        path=path,
        speaker_id=_text(values, source.speaker_key),
        split=_SPLIT_NAMES.get(split) if split else None,
        problem=problem,
    )


def _text(values: dict[str, Any], key: str | None) -> str | None:
    """A value as text; None where the line has none."""
    value = values.get(key) if key else None
    return None if value is None or value == "" else str(value)


def _broken(row_id: str, detail: str) -> Row:
    return Row(row_id, row_id, None, problem=("malformed_row", detail))
