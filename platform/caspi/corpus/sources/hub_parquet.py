"""Parquet with an `Audio` column, as the Hugging Face hub stores it: `struct<bytes, path>`.

Only the columns that we need are read at all. Volunteers' ids and user agents stay where they are; of Common Voice's
`client_id` only a hash goes on.
"""

import posixpath
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq

from caspi.corpus.rows import Chunk, Row
from caspi.corpus.sources import files
from caspi.corpus.sources.files import File
from caspi.corpus.sources.hub_layouts import LAYOUTS, Layout, Values
from caspi.errors import SourceError
from caspi.recipe.sources import HubParquetSource

# A row group is what Parquet reads at once. Some writers put a whole file into one, so it is shared by a few tasks;
# more would read the same bytes too often.
_ROWS_PER_CHUNK = 128
_MAX_CHUNKS_PER_GROUP = 4

# Rows decoded from Parquet at once: 64 of 30 s are about 20 MB.
_ROWS_AT_ONCE = 64

# Read from the file at once. By itself Arrow would fetch a whole row group, also for its first rows.
_READ_BYTES = 2**22

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
    found = files.find_files(source.path, ".parquet")
    with ThreadPoolExecutor(16) as pool:
        metadata = list(pool.map(_read_metadata, found))
    _recognise(source, metadata[0].schema.to_arrow_schema(), found[0].path)
    splits = [source.split or _named_split(file.path) for file in found]
    # A source that brings its own test split gives none of its training rows to the test. This alone makes chunks
    # depend on other files.
    drawn = [split for split in ("validation", "test") if split not in splits]
    chunks: list[Chunk] = []
    for file, split, groups in zip(found, splits, metadata, strict=True):
        fixed = split if source.split or split != "train" else None
        common = Chunk(number, file.path, 0, split=fixed, drawn_splits=drawn, version=file.version)
        chunks += _cut_file(common, [groups.row_group(group).num_rows for group in range(groups.num_row_groups)])
    if not chunks:
        raise SourceError(f"{source.path}: {len(found)} parquet files without a row")
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


def read(chunk: Chunk, source: HubParquetSource, name: str, refused_flags: frozenset[str]) -> Iterator[Row]:
    """The rows of a chunk. `refused_flags` are those columns of crowd-transcribe's `extra_data` worth reading."""
    within = files.name_within(chunk.path, source.path)
    next_row = chunk.first_row
    try:
        for row in _read_rows(chunk, source, f"{name}/{within}", refused_flags):
            next_row += 1
            yield row
    except (pa.ArrowException, OSError) as error:
        # What the store does not give is a SourceError. So the bytes are there, and make no sense.
        for number in range(next_row, chunk.first_row + chunk.num_rows):
            detail = f"{chunk.path} is damaged from row {next_row + 1} on: {error}"
            yield _broken(f"{name}/{within}:{number + 1}", chunk, detail)


def _read_rows(chunk: Chunk, source: HubParquetSource, prefix: str, flags: frozenset[str]) -> Iterator[Row]:
    with files.open_file(chunk.path) as opened:
        file = pq.ParquetFile(opened, buffer_size=_READ_BYTES, pre_buffer=False)
        layout = _recognise(source, file.schema_arrow, chunk.path)
        columns = _existing(layout.columns(source, flags), file.schema_arrow)
        place = 0
        for batch in file.iter_batches(_ROWS_AT_ONCE, row_groups=[chunk.row_group], columns=columns, use_threads=False):
            for row in range(max(chunk.start - place, 0), min(chunk.stop - place, len(batch))):
                number = chunk.first_row + place + row - chunk.start
                yield _row(batch, row, layout, source, f"{prefix}:{number + 1}", chunk)
            place += len(batch)
            if place >= chunk.stop:
                return


def _row(
    batch: pa.RecordBatch, row: int, layout: Layout, source: HubParquetSource, default_id: str, chunk: Chunk
) -> Row:
    try:
        values: Values = {name: batch.column(name)[row].as_py() for name in batch.schema.names}
    except UnicodeDecodeError as error:  # found when the text is looked at, and so only in its own row
        return _broken(default_id, chunk, f"not UTF-8: {error}")
    parts = layout.row(values, source)
    row_id = parts.row_id or default_id
    audio = parts.audio if isinstance(parts.audio, dict) else {"bytes": parts.audio}
    encoded, problem = audio.get("bytes"), None
    if encoded is None:
        named = f", only the name {audio['path']}" if audio.get("path") else ""
        problem = "missing_audio", f"the row holds no bytes{named}"
    if parts.transcript is not None and not isinstance(parts.transcript, str):
        return _broken(row_id, chunk, f"the transcript is {type(parts.transcript).__name__}; expected a string")
    return Row(
        row_id,
        parts.recording_id or row_id,
        parts.transcript,
        encoded,
        path=f"{chunk.path}#{row_id}",
        speaker_id=parts.speaker_id,
        split=chunk.split,
        is_timed=parts.is_timed,
        previous_text=parts.previous_text,
        flags=parts.flags,
        quality_score=parts.quality_score,
        problem=problem,
    )


def _broken(row_id: str, chunk: Chunk, detail: str) -> Row:
    return Row(row_id, row_id, None, path=chunk.path, split=chunk.split, problem=("malformed_row", detail))


def _read_metadata(file: File) -> pq.FileMetaData:
    try:
        with files.open_file(file.path) as opened:
            return pq.ParquetFile(opened).metadata
    except pa.ArrowInvalid as error:
        raise SourceError(f"{file.path}: not a parquet file: {error}") from error


def _named_split(path: str) -> str | None:
    """`test` for `data/test-00000-of-00003.parquet` and for `he_il/test/0000.parquet`."""
    for part in (posixpath.basename(path), posixpath.basename(posixpath.dirname(path))):
        match = _SPLIT_PREFIX.match(part)
        if match:
            return _SPLIT_WORDS[match[1]]
    return None


def _recognise(source: HubParquetSource, schema: pa.Schema, path: str) -> Layout:
    """The layout of a file, with every column that the layout needs.

    Raises:
        SourceError: it is none that we know, or lacks a column.
    """
    name = source.layout if source.layout != "auto" else _guess(source, schema, path)
    layout = LAYOUTS[name]
    missing = [column for column in layout.needed(source) if _type(schema, column) is None]
    if missing:
        found = ", ".join(schema.names)
        raise SourceError(f"{path}: no column {', '.join(missing)}; layout {name} needs it; found {found}")
    audio = _type(schema, layout.needed(source)[0])
    assert audio is not None, "it was among those not missing"
    is_struct = pa.types.is_struct(audio) and audio.get_field_index("bytes") >= 0
    if not (is_struct or pa.types.is_binary(audio) or pa.types.is_large_binary(audio)):
        raise SourceError(
            f"{path}: the audio column is {audio}; expected struct<bytes: binary, path: string> or binary"
        )
    return layout


def _guess(source: HubParquetSource, schema: pa.Schema, path: str) -> str:
    for name, layout in LAYOUTS.items():
        if name != "columns" and set(layout.needed(source)) <= set(schema.names):
            return name
    known = "crowd-transcribe's, whisper-training's, FLEURS' or Common Voice's"
    raise SourceError(
        f"{path}: columns {', '.join(schema.names)} are not {known}; "
        "say `layout: columns` with audio_column and text_column"
    )


def _type(schema: pa.Schema, column: str) -> pa.DataType | None:
    """The type of a column, or of a field of a struct, `a.b`; None where there is none."""
    if column in schema.names:
        return schema.field(column).type
    first, *fields = column.split(".")
    found = schema.field(first).type if first in schema.names else None
    for name in fields:
        if found is None or not pa.types.is_struct(found) or found.get_field_index(name) < 0:
            return None
        found = found.field(name).type
    return found


def _existing(columns: list[str], schema: pa.Schema) -> list[str]:
    """Those of the columns that the file has: in older uploads some are missing."""
    return [column for column in columns if _type(schema, column) is not None]
