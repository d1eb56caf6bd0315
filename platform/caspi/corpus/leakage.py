"""Evaluation sets that must not leak into training: the ids and the sounds by which their rows are recognised."""

from collections.abc import Iterable

import pyarrow as pa

from caspi.recipe.data import EvaluationSets

# One row for each id and each sound of a set.
HELD_OUT_SCHEMA = pa.schema([("set", pa.string()), ("id", pa.string()), ("audio_digest", pa.binary())])


class HeldOut:
    """What is held out, for looking up. 100,000 rows take about 20 MB."""

    def __init__(self, tables: Iterable[pa.Table], sets: EvaluationSets) -> None:
        self._ids: dict[str, str] = {}
        self._sounds: dict[bytes, str] = {}
        for table in tables:
            for row in table.to_pylist():
                if row["id"] is not None and "id" in sets.match:
                    self._ids[row["id"]] = row["set"]
                if row["audio_digest"] is not None and "audio" in sets.match:
                    self._sounds[row["audio_digest"]] = row["set"]

    def find_id(self, *ids: str) -> str | None:
        """In words, which set has one of these ids; None if none has."""
        for wanted in ids:
            if wanted in self._ids:
                return f"{self._ids[wanted]} has the id {wanted}"
        return None

    def find_audio(self, audio_digest: bytes) -> str | None:
        """In words, which set has the same sound."""
        found = self._sounds.get(audio_digest)
        return f"{found} has the same sound" if found else None
