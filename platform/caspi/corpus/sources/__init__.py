"""Where rows come from: one file for each kind of source.

A kind is two functions. `plan` looks at what is there, cheaply and on the driver, and cuts it into chunks; `read`
yields the rows of one chunk, in a task. Chunks depend on the data alone, never on the machines; so a corpus does too.
"""

from collections.abc import Iterator
from pathlib import PurePosixPath

from caspi.corpus.rows import Chunk, Row
from caspi.corpus.sources import folder, hub_parquet, jsonl
from caspi.recipe.data import Data
from caspi.recipe.sources import FolderSource, HubParquetSource, JsonlSource


def plan_chunks(data: Data) -> list[Chunk]:
    """The chunks of all sources, in order.

    Raises:
        SourceError: a path matches nothing, or what is there is not what its `kind` says.
    """
    chunks: list[Chunk] = []
    for number, source in enumerate(data.sources):
        match source:
            case HubParquetSource():
                chunks += hub_parquet.plan(source, number)
            case JsonlSource():
                chunks += jsonl.plan(source, number)
            case FolderSource():
                chunks += folder.plan(source, number)
    return chunks


def read_rows(chunk: Chunk, data: Data) -> Iterator[Row]:
    """The rows of a chunk, in order."""
    source, name = data.sources[chunk.source], source_names(data)[chunk.source]
    match source:
        case HubParquetSource():
            return hub_parquet.read(chunk, source, name, frozenset(data.filters.refused_flags))
        case JsonlSource():
            return jsonl.read(chunk, source, name)
        case FolderSource():
            return folder.read(chunk, source)


def source_names(data: Data) -> list[str]:
    """What each source is called. A default that two share gets a number, since rows without ids are named after it."""
    names: list[str] = []
    for source in data.sources:
        name = source.name or _default_name(source.path)
        same = sum(other == name or other.startswith(f"{name}-") for other in names)
        names.append(f"{name}-{same + 1}" if name in names and not source.name else name)
    return names


def _default_name(path: str) -> str:
    """The last part of the path that is no pattern; `train.jsonl` and `data` say too little without their folder."""
    parts = [part for part in PurePosixPath(path.partition("://")[2] or path).parts if not set(part) & set("*?[")]
    parts = [part for part in parts if part not in ("/", ".", "..")]
    if not parts:
        return "source"
    name = PurePosixPath(parts[-1])
    stem = name.stem if name.suffix in (".jsonl", ".parquet") else name.name
    if stem in ("data", "train", "manifest", "metadata") and len(parts) > 1:
        return parts[-2]
    return stem
