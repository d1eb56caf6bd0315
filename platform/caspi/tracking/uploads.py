"""Tags, files, tables and checkpoint records on their way to MLflow. Of each, a run keeps the newest version only."""

import hashlib
import json
import logging
import math
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from caspi.tracking.artifact_store import ArtifactStore
from caspi.tracking.checkpoint_record import CheckpointRecords
from caspi.tracking.points import PointOutbox
from caspi.tracking.rest import Refused, Rest, Unreachable

logger = logging.getLogger(__name__)

Kind = Literal["tag", "file", "table", "checkpoint", "no_checkpoint"]

_TABLES_TAG = "mlflow.loggedArtifacts"  # MLflow's page shows what it lists as tables
_MAX_TAG_CHARS = 8000


@dataclass(frozen=True, slots=True)
class Upload:
    """One version of something that replaces its earlier versions."""

    kind: Kind
    name: str
    """A tag's key, an artifact's path, or a checkpoint's step."""
    content: str
    """A tag's value, a local file's path, or JSON."""

    @property
    def place(self) -> str:
        """What a later version has in common with it."""
        return f"{self.kind.removeprefix('no_')} {self.name}"


def table_json(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows as MLflow stores a table. Columns are the rows' keys in order of appearance; what a row lacks is empty.

    Raises:
        TypeError: a value is neither JSON nor a NumPy number.
    """
    columns = list(dict.fromkeys(key for row in rows for key in row))
    cells = [[_cell(row.get(column)) for column in columns] for row in rows]
    return json.dumps({"columns": columns, "data": cells}, ensure_ascii=False, allow_nan=False)


def _cell(value: Any) -> Any:
    if hasattr(value, "item"):
        value = value.item()  # a NumPy number
    return None if isinstance(value, float) and not math.isfinite(value) else value


class UploadOutbox:
    """The uploads that MLflow has not confirmed, in memory and in a folder, a file each.

    One thread stores, another one sends.
    """

    def __init__(self, rest: Rest, folder: Path, *, points: PointOutbox) -> None:
        self._rest = rest
        self._points = points
        self._artifacts = ArtifactStore(rest)
        self._checkpoints = CheckpointRecords(rest, self._artifacts)
        self._spool = _Spool(folder, rest.run_id)
        self._pending: dict[str, Upload] = {}
        self._lock = threading.Lock()  # over the pending ones and the folder

    def __len__(self) -> int:
        return len(self._pending)

    def restore(self) -> None:
        """Take over what an earlier process left in the folder."""
        with self._lock:
            self._pending = {upload.place: upload for upload in self._spool.read()}

    def store(self, uploads: Sequence[Upload]) -> None:
        """Keep the uploads until they are sent. An earlier version that still waits is forgotten."""
        with self._lock:
            for upload in uploads:
                self._pending[upload.place] = upload
                self._spool.write(upload)

    def send(self) -> None:
        """Send what waits. What is refused is reported and dropped.

        Raises:
            Unreachable: one of them did not get through; it goes behind the others.
        """
        while upload := self._first():
            try:
                self._send(upload)
            except Refused as error:
                logger.warning("MLflow does not get %s: %s", upload.place, error)
            except Exception as error:  # whatever it was, the others get their turn
                self._put_last(upload)
                raise Unreachable(f"{upload.place}: {error}") from error
            self._remove(upload)

    def _send(self, upload: Upload) -> None:
        match upload.kind:
            case "tag":
                self._rest.set_tag(upload.name, upload.content)
            case "file":
                self._artifacts.upload(Path(upload.content), upload.name)
            case "table":
                self._artifacts.upload(upload.content.encode(errors="replace"), upload.name)
                self._show_as_table(upload.name)
            case "checkpoint":
                self._put_checkpoint(json.loads(upload.content))
            case "no_checkpoint":
                self._checkpoints.remove(int(upload.name))

    def _put_checkpoint(self, record: Mapping[str, Any]) -> None:
        """Record it after its points, with which its metrics are linked."""
        if self._points.has_until(record["step"]):
            raise Unreachable("its points are still on their way")
        self._checkpoints.put(record)

    def _show_as_table(self, artifact_path: str) -> None:
        """List the artifact in the tag by which MLflow's page knows tables."""
        tables = json.loads(self._rest.tags().get(_TABLES_TAG, "[]"))
        entry = {"path": artifact_path, "type": "table"}
        if entry in tables:
            return
        value = json.dumps([*tables, entry])
        if len(value) > _MAX_TAG_CHARS:  # MLflow would cut it, and then show none
            raise Refused(f"MLflow lists no more than {len(tables)} tables of a run; this one is a plain artifact")
        self._rest.set_tag(_TABLES_TAG, value)

    def _first(self) -> Upload | None:
        with self._lock:
            return next(iter(self._pending.values()), None)

    def _put_last(self, upload: Upload) -> None:
        with self._lock:
            newest = self._pending.pop(upload.place)
            self._pending[upload.place] = newest

    def _remove(self, upload: Upload) -> None:
        with self._lock:
            if self._pending[upload.place] is upload:  # else a later version came meanwhile
                del self._pending[upload.place]
                self._spool.remove(upload)


class _Spool:
    """The folder. A disk that is full costs durability, never the run."""

    def __init__(self, folder: Path, run_id: str) -> None:
        self._folder = folder
        self._run_id = run_id
        self._failed = False

    def read(self) -> list[Upload]:
        """What an earlier writer left. What it had only begun to write is removed."""
        with suppress(OSError):
            for partial in self._folder.glob("*.partial"):
                partial.unlink()
        found = []
        for path in sorted(self._folder.glob("*.json")):
            try:
                record = json.loads(path.read_text(encoding="utf-8"))
                if record.pop("run_id") == self._run_id:
                    found.append(Upload(**record))
            except (OSError, ValueError, TypeError, AttributeError, KeyError) as error:
                logger.warning("%s: skipped, not an upload: %s", path, error)
        return found

    def write(self, upload: Upload) -> None:
        path = self._path(upload)
        partial = path.with_suffix(".partial")
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            partial.write_text(json.dumps({"run_id": self._run_id, **asdict(upload)}), encoding="utf-8")
            partial.replace(path)
        except OSError as error:
            if not self._failed:
                logger.warning("%s: uploads are kept in memory only: %s", self._folder, error)
            self._failed = True
        else:
            self._failed = False

    def remove(self, upload: Upload) -> None:
        with suppress(OSError):
            self._path(upload).unlink(missing_ok=True)
            self._folder.rmdir()  # when it was the last

    def _path(self, upload: Upload) -> Path:
        return self._folder / f"{hashlib.sha256(upload.place.encode(errors='replace')).hexdigest()[:32]}.json"
