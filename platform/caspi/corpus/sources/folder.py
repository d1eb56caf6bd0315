"""A folder of audio files, each with its transcript in a `.txt` beside it."""

import hashlib
import posixpath
from collections.abc import Iterator

from caspi.corpus.rows import Chunk, Row
from caspi.corpus.sources import files, stores
from caspi.corpus.sources.files import File
from caspi.errors import SourceError
from caspi.recipe.sources import FolderSource

# How much a chunk holds on average.
_FILES_PER_CHUNK = 64
_BYTES_PER_CHUNK = 2**26

# Without a transcript beside it, a file counts as a recording by its name; with one, it counts whatever it is called.
AUDIO_SUFFIXES = (
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
    found = _list(source.path)
    stems = {posixpath.splitext(file)[0] for file in found if file.endswith(".txt")}
    rows = [file for file in found if not file.endswith(".txt") and _is_recording(file, stems)]
    heard = {posixpath.splitext(file)[0] for file in rows}
    if not heard:
        raise SourceError(
            f"{source.path}: no audio file in this folder; expected NAME.wav (or mp3, ...) beside NAME.txt"
        )
    rows = sorted([*rows, *(f"{stem}.txt" for stem in stems - heard)])
    chunks: list[list[str]] = []
    for file in rows:
        if not chunks or _begins_chunk(file, found[file].size):
            chunks.append([])
        chunks[-1].append(file)
    return [
        Chunk(number, source.path, len(names), files=names, split=source.split, version=_version(names, found))
        for names in chunks
    ]


def _list(path: str) -> dict[str, File]:
    """The files of the folder, by their names within it."""
    root = stores.open_filesystem(path)[1].rstrip("/")
    return {
        posixpath.relpath(stores.open_filesystem(file.path)[1], root or "/"): file for file in files.list_folder(path)
    }


def _is_recording(file: str, stems: set[str]) -> bool:
    stem, suffix = posixpath.splitext(file)
    return stem in stems or suffix.lower() in AUDIO_SUFFIXES


def _begins_chunk(file: str, size: int) -> bool:
    """Whether a file is the first of its chunk: decided by itself alone, so that no other file can move a boundary."""
    drawn = int.from_bytes(hashlib.blake2b(file.encode("utf-8", "surrogateescape"), digest_size=8).digest(), "big")
    return drawn / 2**64 < max(1 / _FILES_PER_CHUNK, size / _BYTES_PER_CHUNK)


def _version(names: list[str], found: dict[str, File]) -> str:
    """Of the audio and of the transcripts."""
    return files.version_of(found.get(file) for name in names for file in (name, f"{posixpath.splitext(name)[0]}.txt"))


def read(chunk: Chunk, source: FolderSource, name: str, refused_flags: frozenset[str]) -> Iterator[Row]:
    """One row for each file of the chunk."""
    for file in chunk.files:
        path, stem = posixpath.join(chunk.path, file), posixpath.splitext(file)[0]
        transcript, encoded, problem = None, None, None
        if file.endswith(".txt"):
            problem = "missing_audio", f"{path} has no audio file beside it"
        else:
            encoded, problem = files.read_audio(path)
            try:
                transcript = files.read_bytes(posixpath.join(chunk.path, f"{stem}.txt")).decode("utf-8-sig")
            except FileNotFoundError:
                problem = problem or ("missing_text", f"{path} has no {posixpath.basename(stem)}.txt beside it")
            except UnicodeDecodeError as error:
                problem = problem or ("malformed_row", f"{stem}.txt is not UTF-8: {error}")
        yield Row(f"{name}/{file}", stem, transcript, encoded, path, split=chunk.split, problem=problem)
