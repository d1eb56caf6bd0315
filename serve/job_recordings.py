"""Where the recordings of asynchronous work wait: a folder, or a bucket behind a URL that fsspec knows."""

import shutil
import tempfile
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from fsspec.core import url_to_fs  # type: ignore[import-untyped]


class JobRecordings:
    """One object for each job, named by its id. Methods block, so event loops call them in threads."""

    def __init__(self, url: str) -> None:
        self._files, self._root = url_to_fs(url)
        self._is_local = "file" in self._files.protocol
        self._files.makedirs(self._root, exist_ok=True)

    def save(self, job_id: str, upload: IO[bytes]) -> int:
        """Keep what is left of `upload`; returns the number of bytes."""
        with self._files.open(self._path(job_id), "wb") as file:
            shutil.copyfileobj(upload, file, 2**20)
            return int(file.tell())

    @contextmanager
    def local(self, job_id: str) -> Iterator[Path]:
        """The recording as a file on this machine, for as long as the block runs.

        Raises:
            FileNotFoundError: it is not there.
        """
        if self._is_local:
            yield Path(self._path(job_id))
            return
        with tempfile.NamedTemporaryFile(prefix="caspi-job-") as copy:
            self._files.get_file(self._path(job_id), copy.name)
            yield Path(copy.name)

    def delete(self, job_id: str) -> None:
        """Forget the recording, if it is there."""
        if self._files.exists(self._path(job_id)):
            self._files.rm_file(self._path(job_id))

    def sweep(self, wanted: Collection[str], *, older_than_s: float) -> int:
        """Delete recordings that no job wants; returns how many.

        A recording is there before its job is, so only those are meant that are older than an upload takes.
        """
        deleted = 0
        for entry in self._files.ls(self._root, detail=True, refresh=True):
            job_id = entry["name"].rpartition("/")[2]
            if job_id.startswith("job_") and job_id not in wanted and self._age_s(entry["name"]) > older_than_s:
                self.delete(job_id)
                deleted += 1
        return deleted

    def _age_s(self, path: str) -> float:
        return float(time.time() - self._files.modified(path).timestamp())

    def _path(self, job_id: str) -> str:
        return f"{self._root}/{job_id}"
