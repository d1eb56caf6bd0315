"""Hypotheses as they come, kept beside the evaluation, so that one that was killed goes on where it stopped.

OUTPUT/hypotheses/
  request.json    who was asked about what: whoever asks something else must not find these answers
  CHUNK.arrow     the answers to one chunk, whole or not at all
"""

import contextlib
import datetime
import hashlib
import json
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from caspi.corpus.commit import hold, write_text
from caspi.corpus.staging import read_arrow, write_arrow
from caspi.corpus.tasks import full_disk, is_full
from caspi.errors import ModelError, ResultsError
from caspi.tracking.model_files import hash_files, read_model_files

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Hypotheses:
    """The folder of answers to one request."""

    folder: Path

    def read(self, chunk: str) -> pa.Table | None:
        """The answers to a chunk; None where there are none, or the file is damaged."""
        path = self._path(chunk)
        try:
            return read_arrow(path)
        except FileNotFoundError:
            return None
        except (OSError, pa.ArrowInvalid) as error:  # a machine that lost its power may leave half a file
            logger.warning("transcribing again what cannot be read: %s: %s", path, error)
            return None

    def write(self, chunk: str, answers: pa.Table) -> None:
        """Keep the answers to a chunk.

        Raises:
            StorageError: the disk is full.
        """
        try:
            write_arrow(answers, self._path(chunk))
        except OSError as error:
            if is_full(error):
                raise full_disk(error) from error
            raise

    def oldest(self) -> datetime.datetime | None:
        """When the first of the answers here was written; None where there are none."""
        times = [path.stat().st_mtime for path in self.folder.glob("*.arrow")]
        return datetime.datetime.fromtimestamp(min(times), datetime.UTC) if times else None

    def _path(self, chunk: str) -> Path:
        return self.folder / f"{chunk}.arrow"


@contextlib.contextmanager
def open_hypotheses(output: Path, request: Mapping[str, Any], *, overwrite: bool) -> Iterator[Hypotheses]:
    """The answers that `output` holds to this request, perhaps none yet. Nobody else may work there meanwhile.

    Args:
        overwrite: begin anew, whatever `output` holds, answers to this very request among it.

    Raises:
        ResultsError: `output` holds an evaluation of something else, and `overwrite` is not set; or somebody else
            evaluates into it.
    """
    folder = output / "hypotheses"
    folder.mkdir(parents=True, exist_ok=True)
    with hold(folder / "lock", whose="evaluation", error=ResultsError):
        differing = _differing(output, request)
        if differing and not overwrite:
            raise ResultsError(
                f"{output}: holds another evaluation: {'; '.join(differing)}. "
                "Choose another folder, or replace it with --overwrite"
            )
        if overwrite:
            # Answers last: until they are gone the request that stays with them is theirs.
            for path in (output / "metrics.json", output / "utterances.parquet", *folder.glob("*.arrow")):
                path.unlink(missing_ok=True)
        write_text(folder / "request.json", json.dumps(request, ensure_ascii=False, indent=2) + "\n")
        yield Hypotheses(folder)


def fingerprint_model(model: str) -> str:
    """A hash over the files of a model, or of a file of hypotheses; what lies elsewhere goes by its name.

    Of a Caspi model it is the digest by which MLflow knows it, whatever else lies in the folder.
    """
    path = Path(model.partition(":")[2] if model.startswith(("hf:", "file:")) else model).expanduser()
    if path.is_dir():
        try:
            return read_model_files(path).digest
        except ModelError:
            return hash_files(path).digest
    if path.is_file():
        return hashlib.sha256(path.read_bytes()).hexdigest()
    return model


def _differing(output: Path, request: Mapping[str, Any]) -> list[str]:
    """In what an evaluation that is there differs from this request, for people; nothing if none is there.

    A model that lies elsewhere now, or is called by another name, is the same if its files are.
    """
    if not (output / "metrics.json").exists() and not any(output.glob("hypotheses/*.arrow")):
        return []  # at most a request that nobody answered
    try:
        found = json.loads((output / "hypotheses" / "request.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return ["one without the hypotheses that it came from"]
    return [
        f"{name} {_describe(name, found)} there, {_describe(name, request)} here"
        for name in request
        if name != "model" and found.get(name) != request[name]
    ]


def _describe(name: str, request: Mapping[str, Any]) -> str:
    value = repr(request.get(name))
    return f"{value} ({request.get('model')})" if name == "model_fingerprint" else value
