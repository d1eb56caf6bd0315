"""Where rows come from: one file for each kind of source.

A kind is two functions. `plan` looks at what is there, cheaply and on the driver, and cuts it into chunks; `read`
yields the rows of one chunk, in a task. Chunks depend on the data alone, never on the machines; so a corpus does too.
Where one chunk ends and the next begins depends on one file alone, so that what is added later leaves the others be.
"""

from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath
from typing import Any, Protocol

from caspi.corpus.rows import Chunk, Row
from caspi.corpus.sources import common_voice, folder, hub_parquet, jsonl, kaldi, lhotse, nemo, webdataset
from caspi.errors import SourceError
from caspi.recipe.data import Data
from caspi.recipe.sources import (
    CommonVoiceSource,
    FolderSource,
    HubParquetSource,
    JsonlSource,
    KaldiSource,
    LhotseSource,
    NemoSource,
    Source,
    WebdatasetSource,
)


class Kind(Protocol):
    """What the module of a kind offers. All take the same, so that nobody needs to ask which kind it is."""

    def plan(self, source: Any, number: int) -> list[Chunk]:
        """The chunks of a source, which is `number` in its list.

        Raises:
            SourceError: its path matches nothing, or what is there is not of this kind.
        """

    def read(self, chunk: Chunk, source: Any, name: str, refused_flags: frozenset[str]) -> Iterator[Row]:
        """The rows of a chunk, in order: as many as were planned, whatever is wrong with them.

        `name` stands before ids that are only a file name or a place; `refused_flags` are worth reading.
        """


KINDS: dict[type, Kind] = {
    CommonVoiceSource: common_voice,
    FolderSource: folder,
    HubParquetSource: hub_parquet,
    JsonlSource: jsonl,
    KaldiSource: kaldi,
    LhotseSource: lhotse,
    NemoSource: nemo,
    WebdatasetSource: webdataset,
}


def plan_chunks(data: Data) -> list[Chunk]:
    """The chunks of all sources, in order.

    Raises:
        SourceError: a path matches nothing, or what is there is not what its `kind` says.
    """
    return [chunk for number, source in enumerate(data.sources) for chunk in plan_source(source, number)]


def read_rows(chunk: Chunk, data: Data) -> Iterator[Row]:
    """The rows of a chunk, in order."""
    source, name = data.sources[chunk.source], source_names(data)[chunk.source]
    return read_source(chunk, source, name, frozenset(data.filters.refused_flags))


def source_names(data: Data) -> list[str]:
    """What each source is called, see `name_sources`."""
    return name_sources(data.sources)


def plan_source(source: Source, number: int) -> list[Chunk]:
    """The chunks of one source, which is `number` in whatever list it is in.

    Raises:
        SourceError: its path matches nothing, or what is there is not what its `kind` says.
    """
    return KINDS[type(source)].plan(source, number)


def read_source(chunk: Chunk, source: Source, name: str, refused_flags: frozenset[str] = frozenset()) -> Iterator[Row]:
    """The rows of a chunk of this source, in order."""
    return KINDS[type(source)].read(chunk, source, name, refused_flags)


def name_sources(sources: Sequence[Source]) -> list[str]:
    """What each source is called. A default that two share gets a number, since rows without ids are named after it.

    Raises:
        SourceError: a source was given the name of one before it.
    """
    names: list[str] = []
    for source in sources:
        name = source.name or _default_name(source.path)
        if source.name and name in names:
            raise SourceError(f"two sources are called {name}, and so would be their rows; give each its own `name`")
        same = sum(other == name or other.startswith(f"{name}-") for other in names)
        names.append(f"{name}-{same + 1}" if name in names else name)
    return names


def _default_name(path: str) -> str:
    """The last part of the path that is no pattern; `train.jsonl` and `data` say too little without their folder."""
    parts = [part for part in PurePosixPath(path.partition("://")[2] or path).parts if not set(part) & set("*?[{")]
    parts = [part for part in parts if part not in ("/", ".", "..")]
    if not parts:
        return "source"
    name = PurePosixPath(parts[-1])
    stem = name.name.partition(".")[0] if name.suffix in (".jsonl", ".json", ".gz", ".parquet", ".tsv", ".tar") else ""
    stem = stem or name.name
    if stem in ("data", "train", "manifest", "metadata", "cuts", "recordings") and len(parts) > 1:
        return parts[-2]
    return stem
