"""Parquet with an `Audio` column, as the Hugging Face hub stores it: `struct<bytes, path>`.

Only the columns that we need are read at all. Volunteers' ids and user agents stay where they are.
"""

import posixpath
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from caspi.corpus.rows import Chunk, Row
from caspi.corpus.sources import files
from caspi.errors import SourceError
from caspi.recipe.sources import HubParquetSource

# A row group is what Parquet reads at once. Some writers put a whole file into one, so it is shared by a few tasks;
# more would read the same bytes too often.
_ROWS_PER_CHUNK = 128
_MAX_CHUNKS_PER_GROUP = 4

# Rows decoded from Parquet at once: 64 of 30 s are about 20 MB.
_ROWS_AT_ONCE = 64

# The hub names splits in the file, `test-00000-of-00003.parquet`, or in its folder, `he_il/test/0000.parquet`.
_SPLIT_WORDS = {
    "train": "train",
    "test": "test",
    "validation": "validation",
    "valid": "validation",
    "dev": "validation",
}
_SPLIT_PREFIX = re.compile(rf"^({'|'.join(_SPLIT_WORDS)})(?=[-_.]|$)")


def plan(source: HubParquetSource, number: int) -> list[Chunk]:
    """Row groups, or parts of large ones."""
    paths = files.find_files(source.path, ".parquet")
    with ThreadPoolExecutor(16) as pool:
        metadata = list(pool.map(_read_metadata, paths))
    _recognise(source, metadata[0].schema.to_arrow_schema(), paths[0])
    splits = [source.split or _named_split(path) for path in paths]
    # A source that brings its own test split gives none of its training rows to the test.
    drawn = [split for split in ("validation", "test") if split not in splits]
    chunks: list[Chunk] = []
    for path, split, file in zip(paths, splits, metadata, strict=True):
        fixed = split if source.split or split != "train" else None
        common = Chunk(number, path, 0, split=fixed, drawn_splits=drawn)
        chunks += _cut_file(common, [file.row_group(group).num_rows for group in range(file.num_row_groups)])
    if not chunks:
        raise SourceError(f"{source.path}: {len(paths)} parquet files without a row")
    return chunks


def _cut_file(common: Chunk, group_sizes: list[int]) -> list[Chunk]:
    chunks, first_row = [], 0
    for group, size in enumerate(group_sizes):
        step = max(_ROWS_PER_CHUNK, -(-size // _MAX_CHUNKS_PER_GROUP))
        for start in range(0, size, step):
            stop = min(start + step, size)
            chunks.append(
                replace(
                    common, num_rows=stop - start, first_row=first_row + start, start=start, stop=stop, row_group=group
                )
            )
        first_row += size
    return chunks


def read(chunk: Chunk, source: HubParquetSource, name: str, flags: frozenset[str]) -> Iterator[Row]:
    """The rows of a chunk. `flags` are those columns of crowd-transcribe's `extra_data` that the recipe refuses."""
    within = files.name_within(chunk.path, source.path)
    filesystem, inner = files.open_filesystem(chunk.path)
    with filesystem.open(inner, "rb") as opened:
        file = pq.ParquetFile(opened)
        layout = _recognise(source, file.schema_arrow, chunk.path)
        columns = _columns(layout, source, file.schema_arrow, flags)
        place = 0
        for batch in file.iter_batches(_ROWS_AT_ONCE, row_groups=[chunk.row_group], columns=columns, use_threads=False):
            first, last = max(chunk.start - place, 0), min(chunk.stop - place, len(batch))
            if first < last:
                for offset, values in enumerate(batch.slice(first, last - first).to_pylist()):
                    row_number = chunk.first_row + place + first + offset - chunk.start
                    default_id = f"{name}/{within}:{row_number + 1}"
                    yield _ROWS[layout](values, source, default_id, chunk)
            place += len(batch)
            if place >= chunk.stop:
                break


def _read_metadata(path: str) -> pq.FileMetaData:
    filesystem, inner = files.open_filesystem(path)
    try:
        with filesystem.open(inner, "rb") as opened:
            return pq.ParquetFile(opened).metadata
    except pa.ArrowInvalid as error:
        raise SourceError(f"{path}: not a parquet file: {error}") from error


def _named_split(path: str) -> str | None:
    """`test` for `data/test-00000-of-00003.parquet` and for `he_il/test/0000.parquet`."""
    for part in (posixpath.basename(path), posixpath.basename(posixpath.dirname(path))):
        match = _SPLIT_PREFIX.match(part)
        if match:
            return _SPLIT_WORDS[match[1]]
    return None


def _recognise(source: HubParquetSource, schema: pa.Schema, path: str) -> str:
    """The layout of a file, with every column that the layout needs.

    Raises:
        SourceError: it is none that we know, or lacks a column.
    """
    needed = {
        "crowd_transcribe": ["uuid", "audio", "sentence"],
        "whisper_training": ["audio", "transcript"],
        "columns": [source.audio_column, source.text_column]
        + [column for column in (source.id_column, source.recording_column, source.speaker_column) if column],
    }
    names = schema.names
    layout: str = source.layout
    if layout == "auto":
        candidates = [kind for kind in ("crowd_transcribe", "whisper_training") if set(needed[kind]) <= set(names)]
        if not candidates:
            raise SourceError(
                f"{path}: columns {', '.join(names)} are neither crowd-transcribe's nor whisper-training's; "
                "say `layout: columns` with audio_column and text_column"
            )
        layout = candidates[0]
    missing = [column for column in needed[layout] if column not in names]
    if missing:
        raise SourceError(f"{path}: no column {', '.join(missing)}; layout {layout} needs it; found {', '.join(names)}")
    audio = schema.field(source.audio_column if layout == "columns" else "audio").type
    if not (pa.types.is_struct(audio) and audio.get_field_index("bytes") >= 0):
        raise SourceError(f"{path}: the audio column is {audio}; expected struct<bytes: binary, path: string>")
    return layout


def _columns(layout: str, source: HubParquetSource, schema: pa.Schema, flags: frozenset[str]) -> list[str]:
    """What to read. Optional fields only where the file has them."""
    if layout == "crowd_transcribe":
        extra = schema.field("extra_data").type if "extra_data" in schema.names else pa.struct([])
        known = [flag for flag in sorted(flags) if pa.types.is_struct(extra) and extra.get_field_index(flag) >= 0]
        return ["uuid", "audio", "sentence", *(f"extra_data.{flag}" for flag in known)]
    if layout == "whisper_training":
        metadata = schema.field("metadata").type if "metadata" in schema.names else pa.struct([])
        known = [
            name for name in ("source", "entry_id", "seek", "quality_score") if metadata.get_field_index(name) >= 0
        ]
        return ["audio", "transcript", *(f"metadata.{name}" for name in known)]
    optional = (source.id_column, source.recording_column, source.speaker_column)
    return [source.audio_column, source.text_column, *(column for column in optional if column)]


def _crowd_transcribe_row(values: dict[str, Any], source: HubParquetSource, default_id: str, chunk: Chunk) -> Row:
    row_id = values["uuid"] or default_id
    # Old rows have null for flags that did not exist yet: not set.
    flags = tuple(flag for flag, is_set in sorted((values.get("extra_data") or {}).items()) if is_set)
    return _row(row_id, row_id, values["sentence"], values["audio"], chunk, flags=flags)


def _whisper_training_row(values: dict[str, Any], source: HubParquetSource, default_id: str, chunk: Chunk) -> Row:
    metadata = values.get("metadata") or {}
    entry, seek = metadata.get("entry_id") or (values["audio"] or {}).get("path"), metadata.get("seek")
    recording_id = "/".join(part for part in (metadata.get("source"), entry) if part) or default_id
    # Slices of one recording differ by where they start.
    row_id = f"{recording_id}@{seek:.2f}" if entry and seek is not None else default_id
    score = metadata.get("quality_score")
    return _row(
        row_id, recording_id, values["transcript"], values["audio"], chunk, is_timed=True, quality_score=score
    )  # fmt: skip


def _columns_row(values: dict[str, Any], source: HubParquetSource, default_id: str, chunk: Chunk) -> Row:
    def named(column: str | None) -> str | None:
        value = values[column] if column else None
        return None if value is None else str(value)

    row_id = named(source.id_column) or default_id
    recording_id = named(source.recording_column) or row_id
    audio, transcript = values[source.audio_column], values[source.text_column]
    return _row(row_id, recording_id, transcript, audio, chunk, speaker_id=named(source.speaker_column))


def _row(
    row_id: str, recording_id: str, transcript: Any, audio: dict[str, Any] | None, chunk: Chunk, **rest: Any
) -> Row:
    audio = audio or {}
    problem = None
    if audio.get("bytes") is None:
        problem = (
            "missing_audio",
            "the row holds no bytes" + (f", only the name {audio['path']}" if audio.get("path") else ""),
        )
    return Row(
        row_id, recording_id, transcript, audio.get("bytes"), path=f"{chunk.path}#{row_id}", split=chunk.split,
        problem=problem, **rest,
    )  # fmt: skip


_ROWS = {
    "crowd_transcribe": _crowd_transcribe_row,
    "whisper_training": _whisper_training_row,
    "columns": _columns_row,
}
