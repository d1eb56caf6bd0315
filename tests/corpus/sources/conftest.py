"""Sources read without a cluster."""

import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from caspi.corpus.rows import Chunk, Row
from caspi.corpus.sources import plan_chunks, read_rows
from tests.corpus.conftest import CROWD_TRANSCRIBE, crowd_row, recipe, tone, write_jsonl, write_parquet


def chunks_of(*sources: dict[str, Any], **data: Any) -> list[Chunk]:
    return plan_chunks(recipe(*sources, **data).data)


def rows_of(*sources: dict[str, Any], **data: Any) -> list[Row]:
    """All rows, each chunk read by itself; as many as were planned."""
    checked = recipe(*sources, **data).data
    rows: list[Row] = []
    for chunk in plan_chunks(checked):
        read = list(read_rows(chunk, checked))
        assert len(read) == chunk.num_rows
        rows += read
    return rows


def hub(path: Any, **values: Any) -> dict[str, Any]:
    return {"kind": "hub_parquet", "path": path, **values}


def jsonl(path: Any, **values: Any) -> dict[str, Any]:
    return {"kind": "jsonl", "path": path, **values}


# --- one small source of each kind, with three recordings a, b and c ---

TEXTS = {"a": "אחת", "b": "שתיים", "c": "שלוש"}


def _write_audio(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(TEXTS):
        (folder / f"{name}.wav").write_bytes(tone(0.2, frequency=300 + 100 * number))


def _write_hub_parquet(folder: Path) -> str:
    rows = [crowd_row(name, text, tone(0.2)) for name, text in TEXTS.items()]
    write_parquet(folder / "data/train.parquet", rows, CROWD_TRANSCRIBE)
    return "data"


def _write_jsonl(folder: Path) -> str:
    _write_audio(folder)
    lines = [{"id": name, "audio": f"{name}.wav", "text": text} for name, text in TEXTS.items()]
    write_jsonl(folder / "speech.jsonl", lines)
    return "speech.jsonl"


def _write_nemo(folder: Path) -> str:
    _write_audio(folder)
    lines = [{"audio_filepath": f"{name}.wav", "duration": 0.2, "text": text} for name, text in TEXTS.items()]
    write_jsonl(folder / "train.json", lines)
    return "train.json"


def _write_folder(folder: Path) -> str:
    _write_audio(folder / "speech")
    for name, text in TEXTS.items():
        (folder / f"speech/{name}.txt").write_text(text, encoding="utf-8")
    return "speech"


def _write_common_voice(folder: Path) -> str:
    _write_audio(folder / "he/clips")
    rows = [f"client-{name}\t{name}.wav\t{text}" for name, text in TEXTS.items()]
    (folder / "he/train.tsv").write_text("\n".join(["client_id\tpath\tsentence", *rows]) + "\n", encoding="utf-8")
    return "he"


def _write_kaldi(folder: Path) -> str:
    _write_audio(folder / "data")
    tables = {"wav.scp": [f"{name} {name}.wav" for name in TEXTS], "text": [" ".join(pair) for pair in TEXTS.items()]}
    for name, lines in tables.items():
        (folder / "data" / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return "data"


def _write_webdataset(folder: Path) -> str:
    _write_folder(folder)
    with tarfile.open(folder / "shard-000.tar", "w") as tar:
        for file in sorted((folder / "speech").iterdir()):
            tar.add(file, file.name)
    return "shard-{000..000}.tar"


def _write_lhotse(folder: Path) -> str:
    _write_audio(folder)
    recordings, supervisions = [], []
    for name, text in TEXTS.items():
        sources = [{"type": "file", "channels": [0], "source": f"{name}.wav"}]
        recordings.append(
            {"id": name, "sources": sources, "sampling_rate": 16000, "num_samples": 3200, "duration": 0.2}
        )
        supervisions.append({"id": name, "recording_id": name, "start": 0.0, "duration": 0.2, "text": text})
    cuts = [
        {"id": cut["id"], "start": 0.0, "duration": 0.2, "channel": 0, "supervisions": [said], "type": "MonoCut"}
        | {"recording": cut}
        for cut, said in zip(recordings, supervisions, strict=True)
    ]
    write_jsonl(folder / "cuts.jsonl", cuts)
    return "cuts.jsonl"


# Each writes its files below a folder and says what the `path` of a source is, within it.
WRITERS: dict[str, Callable[[Path], str]] = {
    "common_voice": _write_common_voice,
    "folder": _write_folder,
    "hub_parquet": _write_hub_parquet,
    "jsonl": _write_jsonl,
    "kaldi": _write_kaldi,
    "lhotse": _write_lhotse,
    "nemo": _write_nemo,
    "webdataset": _write_webdataset,
}

each_kind = pytest.mark.parametrize("kind", sorted(WRITERS))
