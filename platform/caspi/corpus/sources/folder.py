"""A folder of audio files, each with its transcript in a `.txt` beside it."""

import posixpath
from collections.abc import Iterator

from caspi.corpus.rows import Chunk, Row
from caspi.corpus.sources import files
from caspi.errors import SourceError
from caspi.recipe.sources import FolderSource

_FILES_PER_CHUNK = 64

# Without a transcript beside it, a file counts as a recording by its name; with one, it counts whatever it is called.
_AUDIO_SUFFIXES = (
    ".wav",
    ".flac",
    ".mp3",
    ".ogg",
    ".oga",
    ".opus",
    ".m4a",
    ".mp4",
    ".aac",
    ".webm",
    ".aiff",
    ".au",
    ".sph",
)


def plan(source: FolderSource, number: int) -> list[Chunk]:
    """Lists of files; each file is one row. A transcript without audio is a row too, to be refused and counted."""
    filesystem, inner = files.open_filesystem(source.path)
    if not filesystem.isdir(inner):
        raise SourceError(f"{source.path}: no such folder")
    found = sorted(posixpath.relpath(file, inner) for file in filesystem.find(inner))
    stems = {posixpath.splitext(file)[0] for file in found if file.endswith(".txt")}
    rows = [file for file in found if not file.endswith(".txt") and _is_recording(file, stems)]
    heard = {posixpath.splitext(file)[0] for file in rows}
    rows = sorted([*rows, *(f"{stem}.txt" for stem in stems - heard)])
    if not heard:
        raise SourceError(
            f"{source.path}: no audio file in this folder; expected NAME.wav (or mp3, ...) beside NAME.txt"
        )
    return [
        Chunk(number, source.path, len(rows[first:][:_FILES_PER_CHUNK]), first, files=rows[first:][:_FILES_PER_CHUNK],
              split=source.split)
        for first in range(0, len(rows), _FILES_PER_CHUNK)
    ]  # fmt: skip


def _is_recording(file: str, stems: set[str]) -> bool:
    stem, suffix = posixpath.splitext(file)
    return stem in stems or suffix.lower() in _AUDIO_SUFFIXES


def read(chunk: Chunk, source: FolderSource) -> Iterator[Row]:
    """One row for each file of the chunk."""
    for file in chunk.files:
        path, stem = posixpath.join(chunk.path, file), posixpath.splitext(file)[0]
        transcript, encoded, problem = None, None, None
        if file.endswith(".txt"):
            problem = "missing_audio", f"{path} has no audio file beside it"
        else:
            encoded = files.read_bytes(path)
            try:
                transcript = files.read_bytes(posixpath.join(chunk.path, f"{stem}.txt")).decode("utf-8-sig")
            except FileNotFoundError:
                problem = "missing_text", f"{path} has no {posixpath.basename(stem)}.txt beside it"
            except UnicodeDecodeError as error:
                problem = "malformed_row", f"{stem}.txt is not UTF-8: {error}"
        yield Row(file, stem, transcript, encoded, path, split=chunk.split, problem=problem)
