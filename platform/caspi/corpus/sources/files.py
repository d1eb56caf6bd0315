"""Files of a local disk or an object store, behind one interface that tries again when a store stumbles.

fsspec's own `find` and `glob` are not used: they take a folder that could not be listed for an empty one, and a corpus
would silently lack it.
"""

import datetime
import errno
import hashlib
import io
import itertools
import posixpath
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

from fsspec.utils import glob_translate  # type: ignore[import-untyped]

from caspi.corpus.sources.asking import ask
from caspi.corpus.sources.stores import UnknownStore, open_filesystem
from caspi.errors import SourceError

# Enough that a manifest is read in few requests, and little enough that skipping through a tar does not read it all.
_BUFFER_BYTES = 2**18

Problem = tuple[str, str]


@dataclass(frozen=True, slots=True)
class File:
    """A file that is there, and a word that changes with its content."""

    path: str
    size: int
    version: str


# --- what is there ---


def find_files(path: str, *suffixes: str) -> list[File]:
    """The files that a path, folder, glob or URL names, sorted; of a folder, those that end in a suffix, at any depth.

    `{000..010}` and `{a,b}` stand for each of their alternatives, as in a shell.

    Raises:
        SourceError: there are none, or one of the alternatives is not there.
    """
    found = {file.path: file for one in expand_braces(path) for file in _find(one, suffixes)}
    return [found[name] for name in sorted(found)]


def list_folder(path: str) -> list[File]:
    """All files below a folder, at any depth, sorted.

    Raises:
        SourceError: there is no such folder.
    """
    info = _info(path)
    if info is None or info["type"] != "directory":
        raise SourceError(f"{path}: no such folder")
    return sorted((_file(info, path) for info in _walk(path)), key=lambda file: file.path)


def find_file(path: str) -> File | None:
    """The one file of this name; None where there is none."""
    info = _info(path)
    return None if info is None or info["type"] == "directory" else _file(info, path)


def is_folder(path: str) -> bool:
    """Whether there is a folder of this name."""
    info = _info(path)
    return info is not None and info["type"] == "directory"


def version_of(found: Iterable[File | None]) -> str:
    """One word for the state of several files."""
    state = "\n".join(f"{file.path} {file.size} {file.version}" if file else "none" for file in found)
    return hashlib.blake2b(state.encode("utf-8", "surrogateescape"), digest_size=8).hexdigest()


def has_pattern(path: str) -> bool:
    """Whether a path is a glob."""
    return bool(set(path) & set("*?["))


def expand_braces(path: str) -> list[str]:
    """`a-{00..02}.tar` as `a-00.tar`, `a-01.tar`, `a-02.tar`; `{train,dev}.tsv` as each of both."""
    parts = re.split(r"\{(\d+\.\.\d+|[^{}]*,[^{}]*)\}", path)
    choices = [[part] if place % 2 == 0 else _alternatives(part) for place, part in enumerate(parts)]
    return ["".join(choice) for choice in itertools.product(*choices)]


def _alternatives(inside: str) -> list[str]:
    numbers = re.fullmatch(r"(\d+)\.\.(\d+)", inside)
    if not numbers:
        return inside.split(",")
    width = len(numbers[1]) if numbers[1].startswith("0") else 1
    return [f"{number:0{width}d}" for number in range(int(numbers[1]), int(numbers[2]) + 1)]


def _find(path: str, suffixes: tuple[str, ...]) -> list[File]:
    info = _info(path)  # first: a file may well be called `interview [2].jsonl`
    if info is not None and info["type"] != "directory":
        return [_file(info, path)]
    if info is not None:
        found = [_file(info, path) for info in _walk(path) if info["name"].endswith(suffixes)]
        if not found:
            raise SourceError(f"{path}: no {' or '.join(suffixes)} file in this folder")
    elif has_pattern(path):
        found = _match(path)
        if not found:
            raise SourceError(f"{path}: the pattern matches no file; check the path for typing errors")
    else:
        raise SourceError(f"{path}: no such file or folder")
    return found


def _match(pattern: str) -> list[File]:
    """The files that a glob matches. Only folders that can hold any are listed."""
    inner = open_filesystem(pattern)[1]
    first = min(inner.index(mark) for mark in "*?[" if mark in inner)
    root = inner[:first].rpartition("/")[0]
    depth = None if "**" in inner else inner[len(root) :].lstrip("/").count("/") + 1
    matches = re.compile(glob_translate(inner)).match
    if _info(_with_scheme(root or "/", pattern)) is None:
        return []
    below = _walk(_with_scheme(root or "/", pattern), depth)
    return [_file(info, pattern) for info in below if matches(info["name"])]


def _walk(path: str, depth: int | None = None) -> Iterator[dict[str, Any]]:
    """What fsspec says of each file below a folder, at most `depth` levels down."""
    filesystem, inner = open_filesystem(path)
    entries = ask(path, lambda: filesystem.ls(inner, detail=True))
    for info in sorted(entries, key=lambda info: info["name"]):
        if info["type"] != "directory":
            yield info
        elif info["name"].rstrip("/") != inner and depth != 1:
            yield from _walk(_with_scheme(info["name"].rstrip("/"), path), depth and depth - 1)


def _info(path: str) -> dict[str, Any] | None:
    filesystem, inner = open_filesystem(path)
    try:
        return ask(path, lambda: filesystem.info(inner))
    except (FileNotFoundError, NotADirectoryError):
        return None


def _file(info: dict[str, Any], like: str) -> File:
    known = (info.get(key) for key in ("ETag", "etag", "blob_id", "mtime", "LastModified", "updated", "created"))
    changed = next((value for value in known if value is not None), "")
    if isinstance(changed, datetime.datetime):
        changed = changed.timestamp()
    size = info.get("size") or 0
    return File(_with_scheme(info["name"], like), size, f"{size}@{changed}")


def _with_scheme(file: str, like: str) -> str:
    scheme, separator, _ = like.partition("://")
    return f"{scheme}://{file}" if separator and "://" not in file else file


# --- what is in it ---


def read_bytes(path: str, start: int = 0, stop: int | None = None) -> bytes:
    """The content of a file, or of a range of it.

    Raises:
        FileNotFoundError: there is no such file. Also IsADirectoryError and NotADirectoryError, as for `open`.
        SourceError: the store refuses, or gave no answer for the deadline.
    """
    if "://" not in path and not start and stop is None:  # most rows: one call, where fsspec takes a few hundred us
        try:
            return _read_whole(path)
        except OSError:  # a network's disk may stumble too
            return ask(path, lambda: _read_whole(path))
    with _RetriedFile(path) as file:
        return file.read_range(start, file.size if stop is None else min(stop, file.size))


def _read_whole(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def read_audio(path: str) -> tuple[bytes | None, Problem | None]:
    """The content of a file that a row names, or what is wrong with that one row."""
    try:
        return read_bytes(path), None
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        return None, ("missing_audio", f"{path}: no such file")
    except UnknownStore as error:
        return None, ("missing_audio", str(error))
    except (ValueError, OSError) as error:
        # What no file can be called: a NUL in the name, or far too long a name.
        if isinstance(error, OSError) and error.errno not in (errno.ENAMETOOLONG, errno.EINVAL, errno.ELOOP):
            raise
        return None, ("missing_audio", f"{path[:200]!r}: not a file name: {error}")


def open_file(path: str, buffer_bytes: int = _BUFFER_BYTES) -> BinaryIO:
    """A file to read and seek in. Each read is a request of its own, which is tried again if it fails.

    Raises:
        FileNotFoundError, SourceError: as `read_bytes`.
    """
    return io.BufferedReader(_RetriedFile(path), buffer_bytes)


class _RetriedFile(io.RawIOBase):
    """A file that is opened anew, and goes on where it was, when reading fails."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self._path, self._place = path, 0
        self._file: Any = None
        self.size: int = ask(path, self._open)

    def _open(self) -> int:
        filesystem, inner = open_filesystem(self._path)
        self._file = filesystem.open(inner, "rb")
        return self._file.seek(0, io.SEEK_END)

    def readinto(self, buffer: Any) -> int:
        content = self.read_range(self._place, min(self._place + len(buffer), self.size))
        buffer[: len(content)] = content
        self._place += len(content)
        return len(content)

    def read_range(self, start: int, stop: int) -> bytes:
        """All bytes of a range within the file: a store that gives fewer is asked again."""
        return ask(self._path, lambda: self._read(start, stop - start)) if start < stop else b""

    def _read(self, start: int, num_bytes: int) -> bytes:
        try:
            if self._file is None:
                self._open()
            self._file.seek(start)
            content = self._file.read(num_bytes)
            if len(content) < num_bytes:
                raise OSError(f"unexpected end of stream: {len(content)} of {num_bytes} bytes from {start} on")
            return content
        except BaseException:
            self._close()
            raise

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._place = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self.size}[whence]
        return self._place

    def tell(self) -> int:
        return self._place

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def close(self) -> None:
        self._close()
        super().close()

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


def resolve(path: str, beside: str) -> str:
    """A path as a manifest gives it: a URL, absolute, or relative to the manifest's own folder."""
    return path if "://" in path else posixpath.join(posixpath.dirname(beside), path)


def name_within(path: str, source_path: str) -> str:
    """A file's name within its source, for naming rows: `he_il/test/0000` of `fleurs/**/*.parquet`."""
    root = re.split(r"\{(?:\d+\.\.\d+|[^{}]*,[^{}]*)\}", source_path)[0]
    if root != source_path:
        root = posixpath.dirname(root)
    while has_pattern(root) or (root and root == path):
        root = posixpath.dirname(root)
    inside = open_filesystem(path)[1].removeprefix(open_filesystem(root)[1] if root else "").lstrip("/")
    return posixpath.splitext(inside)[0]
