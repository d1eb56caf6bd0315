"""A Common Voice release: a table for each split, and the clips beside them.

Of the volunteers' own columns (age, gender, accents, ...) none is read; of `client_id` only a hash stays.
"""

import posixpath
from collections.abc import Iterator
from dataclasses import replace

from caspi.corpus.rows import Chunk, Row
from caspi.corpus.sources import files, lines
from caspi.corpus.sources.files import File
from caspi.corpus.sources.lines import MalformedLine
from caspi.corpus.sources.personal import speaker_name
from caspi.errors import SourceError
from caspi.recipe.sources import CommonVoiceSource

_ROWS_PER_CHUNK = 64

_NEEDED = ("client_id", "path", "sentence")

# A header line is some 150 bytes.
_MAX_HEADER_BYTES = 2**14

# The release draws these so that no speaker and no sentence is on two sides.
_SPLITS = {"train": "train", "dev": "validation", "test": "test"}


def plan(source: CommonVoiceSource, number: int) -> list[Chunk]:
    """Byte ranges of whole lines of each table, without its header."""
    chunks = []
    for file in _find_tables(source):
        header = _read_header(file.path)
        missing = [column for column in _NEEDED if column not in header]
        if missing:
            raise SourceError(
                f"{file.path}: no column {', '.join(missing)}; found {', '.join(header)}; a Common Voice table has "
                f"{', '.join(_NEEDED)}"
            )
        split = source.split or _split_of(file.path, source)
        chunks += [replace(chunk, split=split) for chunk in _cut(file, number)]
    if not chunks:
        raise SourceError(f"{source.path}: tables without a row")
    return chunks


def _find_tables(source: CommonVoiceSource) -> list[File]:
    if not files.is_folder(source.path):
        return files.find_files(source.path, ".tsv")
    wanted = [files.find_file(posixpath.join(source.path, f"{table}.tsv")) for table in source.tables]
    found = [file for file in wanted if file]
    if not found:
        raise SourceError(
            f"{source.path}: none of {', '.join(source.tables)} (.tsv) is in this folder; expected a language's folder "
            "of a Common Voice release"
        )
    return found


def _split_of(path: str, source: CommonVoiceSource) -> str | None:
    """As the release says. A train table that is named alone brings no validation, so that is drawn from it."""
    table = posixpath.basename(path).removesuffix(".tsv")
    return None if table == "train" and path == source.path else _SPLITS.get(table)


def _cut(file: File, number: int) -> Iterator[Chunk]:
    for chunk in lines.cut(file, number, _ROWS_PER_CHUNK):
        if chunk.first_row > 0:
            yield chunk
        elif chunk.num_rows > 1:
            yield replace(chunk, num_rows=chunk.num_rows - 1)


def _read_header(path: str) -> list[str]:
    header = files.read_bytes(path, 0, _MAX_HEADER_BYTES).partition(b"\n")[0]
    return header.decode("utf-8-sig", "replace").rstrip("\r").split("\t")


def read(chunk: Chunk, source: CommonVoiceSource, name: str, refused_flags: frozenset[str]) -> Iterator[Row]:
    """One row for each line."""
    header = _read_header(chunk.path)
    within = files.name_within(chunk.path, source.path)
    for number, line in lines.read(chunk):
        if number > 0:
            yield _row(line, header, chunk, f"{name}/{within}:{number + 1}")


def _row(line: bytes, header: list[str], chunk: Chunk, default_id: str) -> Row:
    try:
        # No quoting: a quotation mark in a sentence is that and nothing else, also at its beginning.
        cells = line.rstrip(b"\r\n").decode().split("\t")
        if len(cells) != len(header):
            raise MalformedLine(f"{len(cells)} columns; the header has {len(header)}")
    except (UnicodeDecodeError, MalformedLine) as error:
        return Row(default_id, default_id, None, split=chunk.split, problem=("malformed_row", str(error)))
    values = dict(zip(header, cells, strict=True))
    clip = values["path"]
    if not clip:
        return Row(default_id, default_id, None, split=chunk.split, problem=("missing_audio", "the line has no path"))
    # Clips are numbered across all languages and releases, so their names are ids.
    row_id = posixpath.splitext(posixpath.basename(clip))[0]
    path = posixpath.join(posixpath.dirname(chunk.path), "clips", clip if "." in clip else f"{clip}.mp3")
    encoded, problem = files.read_audio(path)
    return Row(
        row_id,
        row_id,
        values["sentence"],
        encoded,
        path,
        speaker_id=speaker_name(values["client_id"]),
        split=chunk.split,
        problem=problem,
    )
