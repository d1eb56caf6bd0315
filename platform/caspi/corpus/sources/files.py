"""Files of a local disk or an object store, behind one interface."""

import posixpath
from functools import lru_cache

import fsspec  # type: ignore[import-untyped]
from fsspec.implementations.arrow import ArrowFSWrapper  # type: ignore[import-untyped]
from pyarrow import fs as arrow_fs

from caspi.errors import SourceError

# Arrow brings these stores in its own library; anything else that fsspec knows needs that protocol's package.
_ARROW_SCHEMES = ("s3", "gs", "gcs", "hdfs")


def open_filesystem(path: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """The file system of a path or URL, and the path within it.

    Raises:
        SourceError: nothing here can read URLs of this kind.
    """
    scheme = path.partition("://")[0] if "://" in path else "file"
    try:
        filesystem = _filesystem(scheme)
        return filesystem, filesystem._strip_protocol(path)
    except (ImportError, ValueError, OSError) as error:
        raise SourceError(f"{path}: cannot read {scheme}:// here: {error}") from error


@lru_cache(maxsize=16)
def _filesystem(scheme: str) -> fsspec.AbstractFileSystem:
    if scheme in _ARROW_SCHEMES:
        return ArrowFSWrapper(arrow_fs.FileSystem.from_uri(f"{scheme}://")[0])
    return fsspec.filesystem(scheme)


def find_files(path: str, suffix: str) -> list[str]:
    """The files that a path, folder, glob or URL names, sorted; of a folder, those that end in `suffix`, at any depth.

    Raises:
        SourceError: there are none.
    """
    filesystem, inner = open_filesystem(path)
    if set(inner) & set("*?["):
        found = [file for file in filesystem.glob(inner) if filesystem.isfile(file)]
        if not found:
            raise SourceError(f"{path}: the pattern matches no file; check the path for typing errors")
    elif filesystem.isdir(inner):
        found = [file for file in filesystem.find(inner) if file.endswith(suffix)]
        if not found:
            raise SourceError(f"{path}: no {suffix} file in this folder")
    elif filesystem.exists(inner):
        found = [inner]
    else:
        raise SourceError(f"{path}: no such file or folder")
    return sorted(_with_scheme(file, path) for file in found)


def read_bytes(path: str, start: int | None = None, end: int | None = None) -> bytes:
    """The content of a file, or of a range of it."""
    filesystem, inner = open_filesystem(path)
    return filesystem.cat_file(inner, start=start, end=end)


def name_within(path: str, source_path: str) -> str:
    """A file's name within its source, for naming rows: `he_il/test/0000` of `fleurs/**/*.parquet`."""
    root = source_path
    while set(root) & set("*?[") or (root and root == path):
        root = posixpath.dirname(root)
    inside = open_filesystem(path)[1].removeprefix(open_filesystem(root)[1] if root else "").lstrip("/")
    return posixpath.splitext(inside)[0]


def _with_scheme(file: str, like: str) -> str:
    scheme, separator, _ = like.partition("://")
    return f"{scheme}://{file}" if separator and "://" not in file else file
