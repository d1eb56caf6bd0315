"""Evaluations without a model: texts and answers as a test writes them down, scored as `caspi evaluate` scores."""

from collections.abc import Mapping, Sequence
from typing import Any

from caspi.evaluation.results import Results
from caspi.evaluation.scoring import score_rows, summarize

Answers = Mapping[str, tuple[str, str]]


def evaluated(
    answers: Answers,
    *,
    recordings: Mapping[str, str] | None = None,
    sources: Mapping[str, str] | None = None,
    failed: Sequence[str] = (),
    rejected: Sequence[str] = (),
    heard_in_silence: Sequence[str] = ("",),
    **metrics: Any,
) -> Results:
    """An evaluation of utterances: id -> (reference, hypothesis). Each is a recording and of the source `crowd`.

    `failed` ids could not be decoded, and `rejected` ones were refused for want of a text. `heard_in_silence` are the
    answers to clips without speech.
    """
    rows = [
        {
            **_row(utterance_id, reference, hypothesis),
            "recording_id": (recordings or {}).get(utterance_id, utterance_id),
            "source": (sources or {}).get(utterance_id, "crowd"),
            "shard": "test/shard-00000.parquet",
            "error": "undecodable_audio" if utterance_id in failed else None,
        }
        for utterance_id, (reference, hypothesis) in answers.items()
    ]
    rows += [{**_row(each, "", ""), "source": "crowd", "error": "missing_text"} for each in rejected]
    clips = [{**_row(f"noise/{number}", "", heard), "source": "noise"} for number, heard in enumerate(heard_in_silence)]
    score_rows(rows)
    score_rows(clips)
    of_model = {"model": "runs/mine/run/model", "system": {"name": "runs/mine/run/model", "kind": "caspi"}}
    return Results.of_rows(of_model | summarize(rows, clips) | metrics, rows)


def _row(utterance_id: str, reference: str, hypothesis: str) -> dict[str, Any]:
    return {
        "utterance_id": utterance_id,
        "text": reference,
        "hypothesis": hypothesis,
        "language": "he",
        "error": None,
        "recording_id": utterance_id,
        "speaker_id": None,
        "duration_s": 3.0,
        "snr_db": None,
        "latency_s": 0.1,
        "began_unix_s": 0.0,
        "ended_unix_s": 1.0,
        "command_unix_s": 0.0,
        "num_actors": 1,
        "device": "a CPU, 1 thread",
    }
