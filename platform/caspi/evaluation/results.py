"""What an evaluation leaves behind: a folder with `metrics.json` and `utterances.parquet`, read and written here.

FOLDER/
  metrics.json         the figures of the whole and of its slices; written last
  utterances.parquet   UTTERANCES_SCHEMA: a row per utterance, every hypothesis among them
  report.html          the same for the eye, drawn from the two
"""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from caspi.errors import ResultsError

UTTERANCES_SCHEMA = pa.schema(
    [
        ("utterance_id", pa.string()),
        ("reference", pa.string()),
        ("hypothesis", pa.string()),
        ("reference_scored", pa.string()),  # after the scoring normalization: what the counts compare
        ("hypothesis_scored", pa.string()),
        ("wer", pa.float64()),
        ("substitutions", pa.int32()),
        ("deletions", pa.int32()),
        ("insertions", pa.int32()),
        ("hits", pa.int32()),
        ("reference_words", pa.int32()),
        ("character_errors", pa.int32()),
        ("reference_characters", pa.int32()),
        ("ivrit_word_errors", pa.int32()),  # after ivrit.ai's normalization; null in languages that it is not for
        ("ivrit_reference_words", pa.int32()),
        ("is_repetition", pa.bool_()),  # the hypothesis says the same again and again, and the reference does not
        ("duration_s", pa.float64()),
        ("characters_per_second", pa.float64()),  # of the reference as it is scored
        ("snr_db", pa.float64()),  # null where it is not known
        ("latency_s", pa.float64()),  # from handing the clip to the model to its answer; clips of a batch share it
        ("language", pa.string()),
        ("source", pa.string()),
        ("recording_id", pa.string()),
        ("speaker_id", pa.string()),
        ("slices", pa.list_(pa.string())),  # `GROUP=NAME`, as in metrics.json: "duration=5-10 s"
        ("shard", pa.string()),  # where its audio lies in the corpus; null where it is in none
        ("row", pa.int32()),
        ("error", pa.string()),  # why the clip could not be used; hypothesis, counts and slices are null then
        ("error_detail", pa.string()),  # what is known of it beyond its name
    ]
)

# Of metrics.json, what comparing, the report, the gate and MLflow read.
_METRICS = (
    "wer", "wer_interval", "cer", "scores", "slices", "hallucination", "num_failed", "latency_s", "rtfx", "test_set",
    "normalizer", "split", "model", "model_fingerprint", "system",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Results:
    """An evaluation: `metrics` as metrics.json holds them, and `utterances` (UTTERANCES_SCHEMA) in corpus order."""

    metrics: dict[str, Any]
    utterances: pa.Table

    @classmethod
    def read(cls, folder: str | Path) -> "Results":
        """Open a folder that `caspi evaluate` wrote.

        Raises:
            ResultsError: there is no finished evaluation, or one that this Caspi does not read.
        """
        folder = Path(folder).expanduser().absolute()
        absent = [name for name in ("metrics.json", "utterances.parquet") if not (folder / name).is_file()]
        if absent:
            state = f"no {' and no '.join(absent)}" if folder.is_dir() else "no such folder"
            raise ResultsError(f"{folder}: not a finished evaluation: {state}; run `caspi evaluate --output {folder}`")
        try:
            metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
            utterances = pq.read_table(folder / "utterances.parquet")
        except (OSError, ValueError) as error:
            raise ResultsError(f"{folder}: cannot be read as an evaluation: {error}; evaluate again") from error
        missing = [name for name in UTTERANCES_SCHEMA.names if name not in utterances.column_names]
        missing += [name for name in _METRICS if name not in metrics]
        if missing:
            raise ResultsError(
                f"{folder}: written by another version of Caspi: it lacks {', '.join(missing)}; evaluate again"
            )
        return cls(metrics, utterances.select(UTTERANCES_SCHEMA.names).cast(UTTERANCES_SCHEMA))

    @classmethod
    def of_rows(cls, metrics: Mapping[str, Any], rows: Iterable[Mapping[str, Any]]) -> "Results":
        """From rows that may lack columns, and may have more than UTTERANCES_SCHEMA."""
        table = [{name: row.get(name) for name in UTTERANCES_SCHEMA.names} for row in rows]
        return cls(dict(metrics), pa.Table.from_pylist(table, UTTERANCES_SCHEMA))

    def write(self, folder: str | Path) -> None:
        """Write both files, each whole or not at all, metrics.json last: whoever finds it finds the rest too."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        temporary = folder / "utterances.parquet.tmp"
        pq.write_table(self.utterances, temporary)
        os.replace(temporary, folder / "utterances.parquet")
        temporary = folder / "metrics.json.tmp"
        # NaN is no JSON, and no figure either: better to learn of it here than from the next program.
        content = json.dumps(self.metrics, ensure_ascii=False, indent=2, allow_nan=False)
        temporary.write_text(content + "\n", encoding="utf-8")
        os.replace(temporary, folder / "metrics.json")


def fingerprint_test_set(references: Iterable[tuple[str, str]]) -> str:
    """SHA-256 over (utterance_id, reference) in order of ids: equal for the same test set, whatever was heard in it."""
    digest = hashlib.sha256()
    for utterance_id, reference in sorted(references):
        # As JSON, so that no text can look like another id and text.
        digest.update(json.dumps([utterance_id, reference], ensure_ascii=False).encode("utf-8", "replace") + b"\n")
    return digest.hexdigest()
