"""Speak and write one part of a corpus. A process of its own, because eSpeak is reproducible only in a fresh one.

python -m caspi.synthesis.part OUTPUT NUM_UTTERANCES SEED PART_NUMBER writes the part's shard, and beside it the truth.
"""

import random
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from caspi.synthesis.clips import CLIP_SCHEMA, clip_row
from caspi.synthesis.espeak import Engine
from caspi.synthesis.plan import Part, plan
from caspi.synthesis.slices import SLICE_SCHEMA, slice_rows
from caspi.synthesis.truth import TRUTH_SCHEMA

Rows = list[dict[str, Any]]


def truth_file(output: Path, number: int) -> Path:
    """Where a part leaves its truth until all parts are joined."""
    return output / ".truth" / f"{number:05d}.parquet"


def write_part(output: Path, num_utterances: int, seed: int, number: int) -> None:
    """Speak part `number` of the plan and write its shard and its truth."""
    part = plan(num_utterances, seed)[number]
    rows, truth = speak_part(part, seed)
    schema = SLICE_SCHEMA if part.entries else CLIP_SCHEMA
    for path, table_rows, table_schema in (
        (output / part.file, rows, schema),
        (truth_file(output, number), truth, TRUTH_SCHEMA),
    ):
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.Table.from_pylist(table_rows, schema=table_schema), path)


def speak_part(part: Part, seed: int) -> tuple[Rows, Rows]:
    """The rows of the dataset and of the truth, in the order in which they were spoken."""
    engine = Engine()
    rows: Rows = []
    truth: Rows = []
    for clip in part.clips:
        speech = engine.speak([word.phonemes for word in clip.sentence.words], clip.voice)
        row, said = clip_row(clip, speech, part, random.Random(f"{seed}/{clip.key}"))
        rows.append(row)
        truth.append(said)
    for entry in part.entries:
        speeches = [engine.speak([word.phonemes for word in each.words], entry.voice) for each in entry.sentences]
        for row, said_here in slice_rows(entry, speeches, part, random.Random(f"{seed}/{entry.key}")):
            rows.append(row)
            truth.extend(said_here)
    return rows, truth


if __name__ == "__main__":
    write_part(Path(sys.argv[1]), *(int(argument) for argument in sys.argv[2:5]))
