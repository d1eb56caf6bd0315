"""Small sources in the true schemas, made in the test."""

import hashlib
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile

from caspi.recipe import Recipe, parse_recipe

AUDIO = pa.struct([("bytes", pa.binary()), ("path", pa.string())])

# ivrit-ai/crowd-transcribe-v5, personal fields included: they must not travel on.
CROWD_TRANSCRIBE = pa.schema(
    [
        ("uuid", pa.string()),
        ("audio", AUDIO),
        ("orig_sentence", pa.string()),
        ("sentence", pa.string()),
        ("is_retranscribe", pa.bool_()),
        ("transcriber", pa.int64()),
        (
            "extra_data",
            pa.struct(
                [
                    ("duration", pa.float64()),
                    ("foreign_language", pa.bool_()),
                    ("multiple_speakers", pa.bool_()),
                    ("noisy", pa.bool_()),
                    ("skipped", pa.bool_()),
                    ("stats", pa.struct([("time", pa.float64()), ("user_agent", pa.string())])),
                    ("unintelligible", pa.bool_()),
                ]
            ),
        ),
    ]
)

# create_dataset.py of ivrit-ai/asr-training.
WHISPER_TRAINING = pa.schema(
    [
        ("audio", AUDIO),
        ("transcript", pa.string()),
        (
            "metadata",
            pa.struct(
                [
                    ("seek", pa.float32()),
                    ("duration", pa.float32()),
                    ("source", pa.string()),
                    ("entry_id", pa.string()),
                    ("quality_score", pa.float32()),
                ]
            ),
        ),
        ("has_prev", pa.bool_()),
        ("has_timestamps", pa.bool_()),
        ("prev_transcript", pa.string()),
    ]
)

# google/fleurs and mozilla-foundation/common_voice as converted to parquet.
FLEURS = pa.schema(
    [
        ("id", pa.int32()),
        ("num_samples", pa.int32()),
        ("path", pa.string()),
        ("audio", AUDIO),
        ("transcription", pa.string()),
        ("raw_transcription", pa.string()),
        ("gender", pa.int64()),
        ("lang_id", pa.int64()),
        ("language", pa.string()),
        ("lang_group_id", pa.int64()),
    ]
)
COMMON_VOICE = pa.schema(
    [
        ("client_id", pa.string()),
        ("path", pa.string()),
        ("audio", AUDIO),
        ("sentence", pa.string()),
        ("up_votes", pa.int64()),
        ("down_votes", pa.int64()),
        *((name, pa.string()) for name in ("age", "gender", "accent", "locale", "segment", "variant")),
    ]
)


def tone(
    duration_s: float = 1.0,
    *,
    frequency: float = 440.0,
    sample_rate: int = 16000,
    container: str = "WAV",
    subtype: str = "PCM_16",
) -> bytes:
    """An encoded sine wave."""
    time = np.arange(round(duration_s * sample_rate)) / sample_rate
    encoded = io.BytesIO()
    samples = 0.3 * np.sin(2 * np.pi * frequency * time)
    soundfile.write(encoded, samples, sample_rate, format=container, subtype=subtype)
    return encoded.getvalue()


def crowd_row(
    uuid: str, sentence: str | None = "שלום עולם", audio: bytes | None = None, **flags: bool
) -> dict[str, Any]:
    extra = {"stats": {"user_agent": "Firefox"}, "noisy": None, **flags}
    content = tone() if audio is None else audio
    return {
        "uuid": uuid,
        "audio": {"bytes": content, "path": None},
        "sentence": sentence,
        "transcriber": 7351,
        "extra_data": extra,
    }


def slice_row(
    entry_id: str, transcript: str, *, seek: float = 0.0, audio: bytes | None = None, quality_score: float = 1.0
) -> dict[str, Any]:
    metadata = {
        "seek": seek,
        "duration": 30.0,
        "source": "recital",
        "entry_id": entry_id,
        "quality_score": quality_score,
    }
    content = tone(10.0) if audio is None else audio
    return {"audio": {"bytes": content, "path": entry_id}, "transcript": transcript, "metadata": metadata}


def write_parquet(path: Path, rows: Sequence[dict[str, Any]], schema: pa.Schema, row_group_size: int = 1000) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(list(rows), schema=schema), path, row_group_size=row_group_size)
    return path


def write_jsonl(path: Path, lines: Sequence[dict[str, Any] | str]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines)
    path.write_text(text + "\n", encoding="utf-8")
    return path


def recipe(*sources: dict[str, Any], **data: Any) -> Recipe:
    """A recipe with these sources; paths may be Path objects."""
    plain = [
        {key: str(value) if isinstance(value, Path) else value for key, value in source.items()} for source in sources
    ]
    return parse_recipe({"name": "test", "data": {"language": "he", "sources": plain, **data}})


@pytest.fixture
def jsonl_of_tones(tmp_path: Path) -> Callable[[int], Path]:
    """A JSONL source of so many good recordings."""

    def write(num_recordings: int) -> Path:
        lines = []
        for number in range(num_recordings):
            (tmp_path / f"{number}.wav").write_bytes(tone(0.5 + number % 7 / 10, frequency=200 + 10 * number))
            lines.append(
                {"id": f"r{number}", "audio": f"{number}.wav", "text": f"מספר {number}", "speaker": f"s{number % 3}"}
            )
        return write_jsonl(tmp_path / "speech.jsonl", lines)

    return write


def hashes(folder: Path) -> dict[str, str]:
    """Every file of a corpus but the one that says how long it took."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "prepare.json")
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
