"""Which columns the data sets on the hub have, and what they mean."""

import posixpath
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from caspi.corpus.sources.personal import speaker_name
from caspi.recipe.sources import HubParquetSource

Values = dict[str, Any]


@dataclass(frozen=True, slots=True)
class RowParts:
    """What a layout finds in a row. Without ids, the row is called by its file and number."""

    audio: Any  # encoded bytes, or a dictionary with them
    transcript: Any
    row_id: str | None = None
    recording_id: str | None = None
    speaker_id: str | None = None
    is_timed: bool = False
    previous_text: str | None = None
    flags: tuple[str, ...] = ()
    quality_score: float | None = None


@dataclass(frozen=True, slots=True)
class Layout:
    """A schema that we know."""

    needed: Callable[[HubParquetSource], list[str]]  # the column of audio first
    columns: Callable[[HubParquetSource, frozenset[str]], list[str]]  # to be read, where the file has them
    row: Callable[[Values, HubParquetSource], RowParts]


# --- ivrit.ai's crowd-transcribe: short clips, flagged by volunteers ---


def _crowd_transcribe_columns(source: HubParquetSource, flags: frozenset[str]) -> list[str]:
    return ["audio", "uuid", "sentence", *(f"extra_data.{flag}" for flag in sorted(flags))]


def _crowd_transcribe_row(values: Values, source: HubParquetSource) -> RowParts:
    # Old rows have null for flags that did not exist yet: not set.
    flags = tuple(flag for flag, is_set in sorted((values.get("extra_data") or {}).items()) if is_set)
    return RowParts(values["audio"], values["sentence"], values["uuid"], flags=flags)


# --- ivrit.ai's whisper-training: slices of 30 s with time tokens ---


def _whisper_training_columns(source: HubParquetSource, flags: frozenset[str]) -> list[str]:
    metadata = (f"metadata.{name}" for name in ("source", "entry_id", "seek", "quality_score"))
    return ["audio", "transcript", *metadata, "has_prev", "prev_transcript"]


def _whisper_training_row(values: Values, source: HubParquetSource) -> RowParts:
    metadata = values.get("metadata") or {}
    entry, seek = metadata.get("entry_id") or (values["audio"] or {}).get("path"), metadata.get("seek")
    recording_id = "/".join(part for part in (metadata.get("source"), entry) if part) or None
    # An older upload may lack `has_prev`; it has an empty text then where there is none.
    previous = values.get("prev_transcript") if values.get("has_prev", True) else None
    return RowParts(
        values["audio"],
        values["transcript"],
        # Slices of one recording differ by where they start.
        f"{recording_id}@{seek:.2f}" if entry and seek is not None else None,
        recording_id,
        is_timed=True,
        previous_text=previous or None,
        quality_score=metadata.get("quality_score"),
    )


# --- FLEURS: sentences that a few people each read ---


def _fleurs_text(source: HubParquetSource) -> str:
    return source.text_column or "raw_transcription"


def _fleurs_row(values: Values, source: HubParquetSource) -> RowParts:
    # `id` is the sentence's: two or three speakers share it. The recording's name is that of its file; the sentence
    # takes the recording's place, so that nobody trains on a sentence that is tested in another voice.
    return RowParts(
        values["audio"],
        _value(values, _fleurs_text(source)),
        _file_id(values),
        f"fleurs/{values['id']}" if values["id"] is not None else None,
    )


# --- Common Voice, as converted to parquet ---


def _common_voice_row(values: Values, source: HubParquetSource) -> RowParts:
    return RowParts(values["audio"], values["sentence"], _file_id(values), speaker_id=speaker_name(values["client_id"]))


def _file_id(values: Values) -> str | None:
    """The name of the file that a row was made of."""
    path = values.get("path") or (values["audio"] or {}).get("path")
    return posixpath.splitext(posixpath.basename(path))[0] if path else None


# --- columns as the recipe names them ---


def _named_columns(source: HubParquetSource) -> list[str]:
    optional = (source.id_column, source.recording_column, source.speaker_column)
    return [source.audio_column, source.text_column or "text", *(column for column in optional if column)]


def _named_row(values: Values, source: HubParquetSource) -> RowParts:
    def named(column: str | None) -> str | None:
        value = _value(values, column) if column else None
        return None if value is None else str(value)

    return RowParts(
        _value(values, source.audio_column),
        _value(values, source.text_column or "text"),
        named(source.id_column),
        named(source.recording_column),
        named(source.speaker_column),
    )


def _value(values: Any, column: str) -> Any:
    """A column's value; `a.b` is the field b of the struct a."""
    if column in values:
        return values[column]
    for field in column.split("."):
        values = values.get(field) if isinstance(values, dict) else None
    return values


# In the order in which `auto` tries them. `columns` is never guessed.
LAYOUTS = {
    "crowd_transcribe": Layout(
        lambda source: ["audio", "uuid", "sentence"], _crowd_transcribe_columns, _crowd_transcribe_row
    ),
    "whisper_training": Layout(
        lambda source: ["audio", "transcript"], _whisper_training_columns, _whisper_training_row
    ),
    "fleurs": Layout(
        lambda source: ["audio", "id", "transcription", _fleurs_text(source)],
        lambda source, flags: ["audio", "id", "path", _fleurs_text(source)],
        _fleurs_row,
    ),
    "common_voice": Layout(
        lambda source: ["audio", "client_id", "sentence"],
        lambda source, flags: ["audio", "client_id", "path", "sentence"],
        _common_voice_row,
    ),
    "columns": Layout(_named_columns, lambda source, flags: _named_columns(source), _named_row),
}
