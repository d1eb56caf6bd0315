"""Tar files, read by their headers: what is where, and how far the file is whole."""

import io
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby

from caspi.corpus.sources import files
from caspi.errors import SourceError

# Byte ranges of a compressed tar cannot be read alone.
_PACKED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}


@dataclass(frozen=True, slots=True)
class Member:
    """A file in a tar."""

    name: str
    start: int  # of its header, or of the first of them where a long name needs some
    data_start: int
    size: int

    @property
    def data_stop(self) -> int:
        return self.data_start + self.size


@dataclass(frozen=True, slots=True)
class Damage:
    """Where a tar stops being one, and why."""

    start: int
    detail: str
    name: str | None = None  # of the file that is cut short, if that is the damage


def scan(path: str) -> Iterator[Member | Damage]:
    """The files in a tar, and last the damage if there is any. Only headers are read.

    Raises:
        SourceError: the tar is compressed.
    """
    with files.open_file(path) as opened:
        _refuse_packed(path, opened.read(6))
        size = opened.seek(0, 2)
        opened.seek(0)
        place = 0  # everything before it was whole
        try:
            with tarfile.open(fileobj=opened, mode="r:") as tar:
                while (info := tar.next()) is not None:
                    tar.members.clear()  # type: ignore[attr-defined]  # it would remember every one
                    if info.isreg():
                        if info.offset_data + info.size > size:
                            yield Damage(
                                info.offset,
                                f"{info.name} should have {info.size} bytes; the tar ends before",
                                info.name,
                            )
                            return
                        yield Member(info.name, info.offset, info.offset_data, info.size)
                    place = tar.offset
                place = tar.offset
        except (tarfile.TarError, UnicodeError, ValueError, OverflowError) as error:
            yield Damage(place, f"not a tar from byte {place} on: {error}")
            return
        # tarfile takes a broken header for the end; the end is a block of zeros, or nothing at all.
        opened.seek(place)
        block = opened.read(512)
        if block.strip(b"\0"):
            yield Damage(place, f"not a tar from byte {place} on: no header where one should be")
        elif block and len(block) < 512:
            yield Damage(place, f"the tar ends within a block, at byte {size}")


def _refuse_packed(path: str, head: bytes) -> None:
    for magic, packer in _PACKED.items():
        if head.startswith(magic):
            raise SourceError(f"{path}: a tar compressed by {packer}; unpack it, audio does not get smaller by that")


@lru_cache(maxsize=8)
def index(path: str, version: str) -> dict[str, tuple[int, int]]:
    """Where each file of a tar begins, and its size. Made once in each process; `version` notices a changed tar."""
    return {found.name: (found.data_start, found.size) for found in scan(path) if isinstance(found, Member)}


def members_of(
    content: bytes, path: str, key_of: Callable[[str], str | None]
) -> Iterator[tuple[str, list[tuple[str, bytes]]]]:
    """Names and contents of the files in a piece of a tar; neighbours of one key together.

    Files without a key are left out."""
    # The piece ends with the last file's last byte; tarfile wants it filled up to a whole block.
    with tarfile.open(fileobj=io.BytesIO(content + bytes(-len(content) % 512)), mode="r:") as tar:
        keyed = ((key_of(info.name), info) for info in tar if info.isreg())
        for key, group in groupby((pair for pair in keyed if pair[0] is not None), key=lambda pair: pair[0]):
            assert key is not None
            yield key, [(info.name, content[info.offset_data : info.offset_data + info.size]) for _, info in group]
