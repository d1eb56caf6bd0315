"""The files of a model, or of a checkpoint, with their hashes: what a download or another look must turn out to be."""

import hashlib
import json
import logging
import struct
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from caspi.errors import ModelError

logger = logging.getLogger(__name__)

CHECKSUMS = "checksums.json"
"""Beside the uploaded files: `{"files": {name: {"sha256": ..., "size_bytes": ...}}, "digest": ...}`."""

# Loading these executes code that they contain.
_PICKLES = {".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib"}


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """Which files a model, or a checkpoint, consists of. Names are relative, with forward slashes."""

    sha256: Mapping[str, str]
    size_bytes: Mapping[str, int]

    @property
    def digest(self) -> str:
        """One hash over all names and contents: two folders with the same digest hold the same model."""
        lines = "".join(f"{self.sha256[name]}  {name}\n" for name in sorted(self.sha256))
        return hashlib.sha256(lines.encode()).hexdigest()

    def to_json(self) -> str:
        files = {
            name: {"sha256": self.sha256[name], "size_bytes": self.size_bytes[name]} for name in sorted(self.sha256)
        }
        return json.dumps({"digest": self.digest, "files": files}, indent=2)

    @classmethod
    def from_json(cls, content: str) -> "ModelFiles":
        files = json.loads(content)["files"]
        return cls(
            {name: each["sha256"] for name, each in files.items()},
            {name: int(each["size_bytes"]) for name, each in files.items()},
        )


def read_model_files(folder: Path) -> ModelFiles:
    """Hash the files of a model folder. Pickles and hidden files are left out.

    Raises:
        ModelError: the folder is not a native Qwen3-ASR model.
    """
    check_model_folder(folder)
    paths = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    pickles = sorted(name for name, path in paths.items() if path.suffix in _PICKLES)
    if pickles:
        logger.warning("%s: left out, because loading a pickle executes it: %s", folder, ", ".join(pickles))
    kept = {
        name: path
        for name, path in sorted(paths.items())
        if name not in pickles and name != CHECKSUMS and not name.startswith(".")
    }
    return _hashed(kept)


def hash_files(folder: Path) -> ModelFiles:
    """Hash every file of a folder, whatever it holds."""
    return _hashed({path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()})


def _hashed(paths: Mapping[str, Path]) -> ModelFiles:
    with ThreadPoolExecutor(4) as pool:  # hashing releases the GIL
        hashes = dict(zip(paths, pool.map(_sha256, paths.values()), strict=True))
    return ModelFiles(hashes, {name: path.stat().st_size for name, path in paths.items()})


def check_model_folder(folder: Path) -> None:
    """Make sure that a folder holds a native Qwen3-ASR model, by its config and the headers of its weights.

    Raises:
        ModelError: it does not; the message says what is missing.
    """
    if not folder.is_dir():
        raise ModelError(f"{folder}: no such folder; expected a model, for instance RUN/model")
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(
            f"{folder}: not a model: no readable config.json; expected a folder such as RUN/model"
        ) from error
    found = config.get("model_type") if isinstance(config, dict) else None
    if found != "qwen3_asr":
        raise ModelError(f"{folder}: not a native Qwen3-ASR model: model_type is {found!r}, expected 'qwen3_asr'")
    if not (folder / "tokenizer_config.json").is_file():
        raise ModelError(
            f"{folder}: not a whole model: no tokenizer_config.json; save the processor beside the weights"
        )
    for weights in _weight_files(folder):
        _check_safetensors(weights)


def _weight_files(folder: Path) -> list[Path]:
    """The safetensors files, all those that an index names included."""
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        try:
            return [folder / name for name in sorted(set(json.loads(index.read_text())["weight_map"].values()))]
        except (ValueError, KeyError, AttributeError) as error:
            raise ModelError(f"{index}: not an index of weights: {error}") from error
    found = sorted(folder.glob("*.safetensors"))
    if not found:
        raise ModelError(f"{folder}: not a model: no *.safetensors; other kinds of weights are not accepted")
    return found


def _check_safetensors(path: Path) -> None:
    """The header must be there, and the file as long as the header says: a cut-off copy is found before it is used."""
    try:
        with path.open("rb") as file:
            (header_bytes,) = struct.unpack("<Q", file.read(8))
            if header_bytes > 100_000_000:  # the format's own limit
                raise ValueError("no safetensors header")
            header = json.loads(file.read(header_bytes))
        ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
        expected = 8 + header_bytes + max(ends, default=0)
    except (OSError, struct.error, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{path}: not readable as safetensors: {error}") from error
    if path.stat().st_size != expected:
        raise ModelError(
            f"{path}: {path.stat().st_size} bytes, but its header says {expected}: the copy is not complete"
        )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
