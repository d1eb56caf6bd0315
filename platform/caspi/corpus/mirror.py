"""A corpus in an object store, as this machine sees it: its index here, its shards when they are asked for.

HOME/corpora/NAME-HASH/    by URL, manifest and state of the index: a corpus that was replaced is another one
  utterances.parquet       brought here when the corpus is opened
  objects.json             bytes and rows of each shard, to know one that has changed; written last
  train|validation|test/   shards, see cache.py
"""

import contextlib
import hashlib
import json
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from fsspec.implementations.arrow import ArrowFSWrapper  # type: ignore[import-untyped]

from caspi.corpus.cache import ShardCache, lock
from caspi.corpus.commit import write_text
from caspi.corpus.sources import files
from caspi.corpus.sources.asking import ask
from caspi.corpus.sources.downloading import download
from caspi.corpus.sources.stores import open_filesystem
from caspi.errors import CorpusError, SourceError, StorageError

INDEX = "utterances.parquet"
_OBJECTS = "objects.json"

_ROWS_AT_ONCE = 2**18
_TABLES_AHEAD = 8  # whose light columns are asked for at once; each is some 60 requests of a few kB


@dataclass(frozen=True, slots=True)
class StoredShard:
    """What a shard must be."""

    num_bytes: int
    num_rows: int


@dataclass(frozen=True, slots=True)
class Mirror:
    """One state of the corpus at `url`. It may be sent to another machine, which then brings there what it reads."""

    url: str
    version: str
    root: Path

    @property
    def folder(self) -> Path:
        """Where it lies on this machine."""
        return self.root / f"{self.url.rpartition('/')[2]}-{self.version}"

    def shards(self) -> dict[str, StoredShard]:
        """What lies on the store, by name."""
        self.open()
        return _read_objects(self.folder)

    @contextlib.contextmanager
    def shard(self, name: str) -> Iterator[Path]:
        """A shard as a file, which stays for as long as the block runs.

        Raises:
            StorageError: the store is away, refuses, or has another shard there now; or the disk is full.
        """
        shard = self.shards()[name]
        with ShardCache(self.root).held(self.folder / name, shard.num_bytes, partial(self._fetch, name, shard)) as path:
            yield path

    def ensure(self, name: str) -> bool:
        """Bring a shard here for later. False: somebody else is at it, or there is no room for it now.

        Raises:
            StorageError: as `shard`.
        """
        shard = self.shards()[name]
        return ShardCache(self.root).ensure(self.folder / name, shard.num_bytes, partial(self._fetch, name, shard))

    def tables(self, names: Sequence[str], columns: Sequence[str]) -> Iterator[pa.Table]:
        """Light columns of shards, one after the other. Of shards that are not here nothing else is read.

        Raises:
            StorageError: as `shard`.
        """
        waiting: deque[Future[pa.Table]] = deque()
        with ThreadPoolExecutor(_TABLES_AHEAD, "columns") as threads:
            try:
                for name in names:
                    waiting.append(threads.submit(self._read_columns, name, list(columns)))
                    if len(waiting) >= _TABLES_AHEAD:
                        yield waiting.popleft().result()
                while waiting:
                    yield waiting.popleft().result()
            finally:
                threads.shutdown(cancel_futures=True)

    def file(self, name: str) -> Path:
        """A file that is no shard, such as `rejected.parquet`; brought here once, and kept.

        Raises:
            CorpusError: it is not there.
        """
        self.open()
        path = self.folder / name
        if not path.exists():
            with _refusing(f"{self.url}/{name}"), self._alone():
                self._fetch_whole(name)
        return path

    def open(self) -> None:
        """Bring the index to this machine, unless it is here.

        Raises:
            CorpusError: the corpus is not whole, was replaced, or the store does not let us in.
        """
        if (self.folder / _OBJECTS).exists():
            return
        with _refusing(self.url), self._alone():
            if (self.folder / _OBJECTS).exists():
                return
            manifest, version = identify(self.url)
            if version != self.version:
                raise CorpusError(f"{self.url}: the corpus was replaced since the command began; give it again")
            self._fetch_whole(INDEX)
            rows = _count_rows(self.folder / INDEX)
            if sum(rows.values()) != manifest.get("num_utterances"):
                raise CorpusError(
                    f"{self.url}: {sum(rows.values())} rows in {INDEX}, {manifest.get('num_utterances')} utterances in "
                    "manifest.json: files of two corpora lie there; copy the whole corpus again"
                )
            inner = open_filesystem(self.url)[1]
            stored = {
                open_filesystem(file.path)[1].removeprefix(f"{inner}/"): file.size
                for file in files.list_folder(self.url)
            }
            if missing := [name for name in rows if name not in stored]:
                raise CorpusError(
                    f"{self.url}: {len(missing)} of {len(rows)} shards are not there, {missing[0]} for instance; "
                    "copy the whole corpus"
                )
            objects = {name: [stored[name], num_rows] for name, num_rows in rows.items()}
            write_text(self.folder / _OBJECTS, json.dumps(objects, indent=0))

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        self.folder.mkdir(parents=True, exist_ok=True)
        with lock(self.folder / "lock"):
            yield

    def _fetch_whole(self, name: str) -> None:
        path = self.folder / name
        part = path.with_name(f"{name}.part")
        found = files.find_file(f"{self.url}/{name}")
        if found is None:
            raise CorpusError(f"{self.url}/{name}: not there; copy the whole corpus")
        part.unlink(missing_ok=True)
        download(found.path, part, num_bytes=found.size)
        part.rename(path)

    def _fetch(self, name: str, shard: StoredShard, part: Path) -> None:
        """Fill a file with a shard, and make sure that it is the one."""
        url = f"{self.url}/{name}"
        with _naming(url):
            found = files.find_file(url)
            if found is None:
                raise StorageError(f"{url}: not there any more; copy the corpus there again")
            if found.size != shard.num_bytes:
                raise _changed(url, f"{found.size:,} bytes", f"{shard.num_bytes:,}")
            download(url, part, num_bytes=shard.num_bytes)
        try:
            num_rows = pq.read_metadata(part).num_rows
        except pa.ArrowException as error:
            raise StorageError(f"{url}: damaged shard: {error}; copy the corpus there again") from error
        if num_rows != shard.num_rows:
            raise _changed(url, f"{num_rows} utterances", str(shard.num_rows))

    def _read_columns(self, name: str, columns: list[str]) -> pa.Table:
        shard = self.shards()[name]
        if (file := ShardCache(self.root).find(self.folder / name, shard.num_bytes)) is not None:
            with file:
                return pq.read_table(self.folder / name, columns=columns)
        url = f"{self.url}/{name}"
        filesystem, inner = open_filesystem(url)
        # Arrow's own file systems read several ranges at once; through fsspec's interface it would be one by one.
        direct = filesystem.fs if isinstance(filesystem, ArrowFSWrapper) else filesystem
        with _naming(url):
            return ask(url, lambda: pq.read_table(inner, columns=columns, filesystem=direct))


def identify(url: str) -> tuple[dict[str, Any], str]:
    """A corpus' manifest, and a word for the state of the corpus.

    The fingerprint would not do: it stays the same when utterances are cut into other shards.

    Raises:
        CorpusError: there is none that can be read.
    """
    with _refusing(url):
        try:
            content = files.read_bytes(f"{url}/manifest.json")
        except FileNotFoundError as error:
            raise CorpusError(
                f"{url}: no manifest.json there; check bucket and path, or copy there what `caspi prepare` wrote"
            ) from error
        index = files.version_of([files.find_file(f"{url}/{INDEX}")])
    try:
        manifest = dict(json.loads(content))
    except (ValueError, TypeError) as error:
        raise CorpusError(f"{url}: its manifest.json is none; copy the whole corpus again") from error
    return manifest, hashlib.sha256(f"{url}\n{index}\n".encode() + content).hexdigest()[:16]


def _count_rows(index: Path) -> dict[str, int]:
    """Rows of each shard that the length index knows, in order."""
    rows: dict[str, int] = {}
    with pq.ParquetFile(index) as file:
        for batch in file.iter_batches(_ROWS_AT_ONCE, columns=["shard"]):
            for entry in batch["shard"].value_counts().to_pylist():
                rows[entry["values"]] = rows.get(entry["values"], 0) + entry["counts"]
    return rows


@lru_cache(maxsize=4)
def _read_objects(folder: Path) -> dict[str, StoredShard]:
    objects = json.loads((folder / _OBJECTS).read_text(encoding="utf-8"))
    return {name: StoredShard(*values) for name, values in objects.items()}


@contextlib.contextmanager
def _refusing(what: str) -> Iterator[None]:
    """What keeps a corpus from being opened."""
    try:
        yield
    except SourceError as error:
        raise CorpusError(f"cannot open a corpus: {error}") from error
    except OSError as error:
        raise CorpusError(f"{what}: cannot be read: {error}") from error


@contextlib.contextmanager
def _naming(url: str) -> Iterator[None]:
    """What keeps a shard of an opened corpus from being read."""
    try:
        yield
    except SourceError as error:
        raise StorageError(str(error)) from error
    except FileNotFoundError as error:
        raise StorageError(f"{url}: not there any more; copy the corpus there again") from error
    except OSError as error:
        raise StorageError(f"{url}: cannot be read: {error}") from error


def _changed(url: str, found: str, expected: str) -> StorageError:
    return StorageError(
        f"{url}: {found}, and it had {expected} when the corpus was opened first: it was replaced; bring it back, or "
        "copy the whole corpus to another URL"
    )
