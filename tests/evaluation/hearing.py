"""Evaluations from texts alone: what was said and what was heard, without a model, a corpus or Ray."""

from collections.abc import Sequence
from typing import Any

from caspi.evaluation.results import Results
from caspi.evaluation.scoring import score_rows, summarize


def hear(texts: Sequence[tuple[str, str]], *, name: str = "runs/model", **columns: Sequence[Any]) -> Results:
    """The evaluation of (reference, hypothesis) pairs u0, u1, ...; `columns` replace what is the same for all."""
    rows = [
        {
            "utterance_id": f"u{place}",
            "text": said,
            "hypothesis": heard,
            "language": "he",
            "source": "crowd",
            "recording_id": f"r{place}",
            "speaker_id": None,
            "duration_s": 1.0 + place % 12,
            "snr_db": 20.0,
            "latency_s": 0.25,
            "began_unix_s": 0.0,
            "ended_unix_s": 10.0,
            "command_unix_s": 0.0,
            "num_actors": 1,
            "device": "a CPU, 1 thread",
            "error": None,
            **{column: values[place] for column, values in columns.items()},
        }
        for place, (said, heard) in enumerate(texts)
    ]
    score_rows(rows)
    about = {
        "model": name,
        "system": {"name": name, "kind": "caspi"},
        "split": "test",
        "corpus": None,
        "versions": None,
    }
    return Results.of_rows({**summarize(rows, []), **about, "corpus_fingerprint": "0123abcd"}, rows)
