"""Text files of a row a line: cutting them into chunks, reading one chunk's lines, finding lines by what they name."""

import gzip
import hashlib
import json
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import chain, groupby, repeat
from typing import Any

import numpy as np

from caspi.corpus.rows import Chunk
from caspi.corpus.sources import files
from caspi.corpus.sources.files import File

# Lines whose places are nearer than this are fetched together: one request costs more than reading past a few others.
_GAP_BYTES = 2**16


# Rows of a file's first chunks. They are dealt last, so that all cores come to their end together.
_FIRST_ROWS = (16, 16, 16, 16, 32, 32, 32, 32)

KeyOf = Callable[[bytes], bytes | None]


class MalformedLine(Exception):
    """A line that is not what its file's format says. The message becomes the row's detail."""


def cut(file: File, number: int, rows_per_chunk: int, group: Callable[[bytes], Any] | None = None) -> Iterator[Chunk]:
    """Chunks of whole lines, as ranges of bytes, the first ones of fewer rows. Blank lines are no rows.

    `group` gives what neighbouring lines have in common; equal ones are one row, and None is equal to nothing.
    """
    start = stop = num_rows = num_lines = first_line = 0
    previous = None
    sizes = chain((min(rows, rows_per_chunk) for rows in _FIRST_ROWS), repeat(rows_per_chunk))
    size = next(sizes)
    with files.open_file(file.path) as opened:
        for line in opened:
            stop += len(line)
            if not line.strip():
                continue
            shared = group(line) if group else None
            if shared is None or shared != previous:
                if num_rows == size:
                    begin = stop - len(line)
                    yield Chunk(number, file.path, num_rows, first_line, start, begin, version=file.version)
                    start, first_line, num_rows, size = begin, num_lines, 0, next(sizes)
                num_rows += 1
            previous = shared
            num_lines += 1
    if num_rows:
        yield Chunk(number, file.path, num_rows, first_line, start, stop, version=file.version)


def read(chunk: Chunk) -> Iterator[tuple[int, bytes]]:
    """The lines of a chunk that `cut` made, each with its number in the file, counted from 0 without blank ones."""
    content = files.read_bytes(chunk.path, chunk.start, chunk.stop)
    yield from enumerate((line for line in content.split(b"\n") if line.strip()), chunk.first_row)


def grouped(items: Iterable[tuple[Any, Any]]) -> Iterator[list[Any]]:
    """Neighbouring items whose keys are equal, as `cut` counts them: a key of None is equal to nothing."""
    for key, group in groupby(items, key=lambda item: item[0]):
        values = [value for _, value in group]
        yield from ([value] for value in values) if key is None else [values]


def parse_json(line: bytes) -> dict[str, Any]:
    """The JSON object of a line.

    Raises:
        MalformedLine: it is none, or holds text that no file can store.
    """
    try:
        values = json.loads(line)
        if b"\\ud" in line.lower():
            json.dumps(values, ensure_ascii=False).encode()  # half of a surrogate pair is no character
    except (ValueError, RecursionError) as error:
        raise MalformedLine(f"not JSON: {error}") from error
    if not isinstance(values, dict):
        raise MalformedLine(f"expected a JSON object, found {type(values).__name__}")
    return values


def text_of(values: dict[str, Any], key: str | None) -> str | None:
    """A value as text; None where the line has none."""
    value = values.get(key) if key else None
    return None if value is None or value == "" else str(value)


def transcript_of(values: dict[str, Any], key: str) -> str | None:
    """The transcript of a line.

    Raises:
        MalformedLine: it is something else than text.
    """
    transcript = values.get(key)
    if transcript is not None and not isinstance(transcript, str):
        raise MalformedLine(f"{key} is {type(transcript).__name__}; expected a string")
    return transcript


def open_lines(path: str) -> Iterator[bytes]:
    """The lines of a file, unpacked if it is gzip."""
    with files.open_file(path) as opened:
        if path.endswith(".gz"):
            with gzip.open(opened, "rb") as unpacked:
                yield from unpacked
        else:
            yield from opened


class LineIndex:
    """Where the lines of a file are, by a key of each. It takes 16 bytes a line, however long the lines."""

    def __init__(self, path: str, key_of: KeyOf) -> None:
        self._path, self._key_of = path, key_of
        hashes, places, place = array("Q"), array("q"), 0
        with files.open_file(path) as opened:
            for line in opened:
                key = key_of(line)
                if key is not None:
                    hashes.append(_hash(key))
                    places.append(place)
                place += len(line)
        self._size = place
        unsorted = np.frombuffer(hashes, np.uint64)
        order = np.argsort(unsorted, kind="stable")  # lines of one key keep their order
        self._hashes, self._places = unsorted[order], np.frombuffer(places, np.int64)[order]

    def __len__(self) -> int:
        return len(self._hashes)

    def holds(self, keys: Sequence[bytes]) -> np.ndarray:
        """Whether there is a line for each key."""
        first, last = self._span(keys)
        return first < last

    def find(self, keys: Sequence[bytes]) -> dict[bytes, list[bytes]]:
        """The lines of each key, in the file's order."""
        first, last = self._span(keys)
        places = sorted({int(place) for a, b in zip(first, last, strict=True) for place in self._places[a:b]})
        known, found = set(keys), dict[bytes, list[bytes]]()
        for line in self._read(places):
            key = self._key_of(line)
            if key is not None and key in known:  # two keys may share a hash
                found.setdefault(key, []).append(line)
        return found

    def _span(self, keys: Sequence[bytes]) -> tuple[np.ndarray, np.ndarray]:
        """Where in the index the lines of each key begin and end."""
        wanted = np.array([_hash(key) for key in keys], np.uint64)
        return np.searchsorted(self._hashes, wanted, "left"), np.searchsorted(self._hashes, wanted, "right")

    def _read(self, places: list[int]) -> Iterator[bytes]:
        ranges: list[list[int]] = []
        for place in places:
            if ranges and place - ranges[-1][-1] < _GAP_BYTES:
                ranges[-1].append(place)
            else:
                ranges.append([place])
        for places in ranges:
            first = places[0]
            content = files.read_bytes(self._path, first, min(places[-1] + _GAP_BYTES, self._size))
            for place in places:
                end = content.find(b"\n", place - first)
                if end < 0 and first + len(content) < self._size:  # a line longer than what was fetched
                    with files.open_file(self._path) as opened:
                        opened.seek(place)
                        yield opened.readline()
                else:
                    yield content[place - first : end if end >= 0 else None]


@lru_cache(maxsize=8)
def index(path: str, version: str, key_of: KeyOf) -> LineIndex:
    """The index of a file, made once in each process. `version` lets a changed file be indexed again."""
    return LineIndex(path, key_of)


def first_word(line: bytes) -> bytes | None:
    """What Kaldi's tables are sorted by."""
    words = line.split(None, 1)
    return words[0] if words else None


def second_word(line: bytes) -> bytes | None:
    """The recording of a line of Kaldi's `segments`."""
    words = line.split(None, 2)
    return words[1] if len(words) > 1 else None


def _hash(key: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "little")
