"""From hypotheses to figures: what each utterance got wrong, and what that comes to. Plain functions of rows; no Ray.

Every figure is written with the name of the normalization that texts went through before they were compared.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

import numpy as np

from caspi import text
from caspi.evaluation import hallucination, lenient, slices
from caspi.evaluation.intervals import ends
from caspi.evaluation.metrics import ErrorCounts, count_errors, pool
from caspi.evaluation.results import fingerprint_test_set
from caspi.text.registry import STRICT, find_language

Row = dict[str, Any]

IVRIT = "ivrit"


def score_rows(rows: Sequence[Row]) -> None:
    """Add to each row what utterances.parquet says of it beyond the answer: texts as scored, errors, slices.

    A row has `text` (the reference), `hypothesis`, `language`, `error` and what `slices.label` needs. Where `error` is
    set there is no hypothesis to score, and columns that follow from it are missing.
    """
    for row in rows:
        scoring = text.normalizer(row["language"]).scoring
        row["reference"] = row["text"]
        row["reference_scored"] = scoring(row["text"])
        if row["error"]:
            row["hypothesis"] = None
            continue
        row["hypothesis_scored"] = scoring(row["hypothesis"])
        row["is_repetition"] = hallucination.is_repetition(row["reference_scored"], row["hypothesis_scored"])
        row["characters_per_second"] = len(row["reference_scored"]) / max(row["duration_s"], 1e-9)
        row["slices"] = slices.label(row)
    scored = [row for row in rows if not row["error"]]
    if scored:
        _add_counts(scored)
    of_ivrit = _in_style(scored, IVRIT)
    if of_ivrit:
        counts = _count_normalized(of_ivrit, IVRIT)
        for row, errors, words in zip(of_ivrit, counts.word_errors, counts.reference_words, strict=True):
            row.update(ivrit_word_errors=int(errors), ivrit_reference_words=int(words))


def summarize(rows: Sequence[Row], clips: Sequence[Row], *, with_lenient: bool = False) -> dict[str, Any]:
    """Everything in metrics.json that follows from the rows.

    Args:
        rows: of the test set, after `score_rows`; at least one without an error.
        clips: answers to `hallucination.make_clips`, which are in no rate; after `score_rows` too.
        with_lenient: add the lenient scores.
    """
    scored = [row for row in rows if not row["error"]]
    counts = _counts(scored)
    recordings = [row["recording_id"] for row in scored]
    failed = Counter(row["error"] for row in rows if row["error"])
    silent = [row for row in scored if not row["reference_scored"]]
    score = pool(counts, clusters=recordings)
    audio_s = sum(row["duration_s"] for row in scored)
    transcribed = [row for row in (*rows, *clips) if row.get("began_unix_s") is not None]
    transcribe_s = _wall_s(transcribed)
    heard_s = audio_s + sum(clip["duration_s"] for clip in clips if not clip["error"])
    return {
        **asdict(score),
        "num_recordings": len(set(recordings)),
        "num_silent": len(silent),
        "num_hallucinated_on_silence": sum(bool(row["hypothesis_scored"]) for row in silent),
        "num_failed": failed.total(),
        "failed_by_reason": dict(sorted(failed.items())),
        "normalizer": _name_normalizer(scored, STRICT),
        "scores": _scores(scored, counts, with_lenient=with_lenient),
        "hallucination": hallucination.summarize(scored, clips),
        "slices": slices.score_slices(counts, [row["slices"] for row in scored], recordings),
        "audio_s": audio_s,
        "transcribe_s": transcribe_s,
        "rtfx": heard_s / max(transcribe_s, 1e-9),
        "transcribed": _describe_work(transcribed),
        "latency_s": _percentiles([row["latency_s"] for row in scored]),
        "test_set": {
            "fingerprint": fingerprint_test_set((row["utterance_id"], row["reference"]) for row in rows),
            "num_utterances": len(rows),
        },
    }


def _add_counts(scored: Sequence[Row]) -> None:
    counts = count_errors([row["reference_scored"] for row in scored], [row["hypothesis_scored"] for row in scored])
    columns = (*ErrorCounts.__slots__, "reference_words")
    for position, row in enumerate(scored):
        row.update({name: int(getattr(counts, name)[position]) for name in columns})
        row["wer"] = int(counts.word_errors[position]) / max(1, row["reference_words"])


def _counts(scored: Sequence[Row]) -> ErrorCounts:
    return ErrorCounts(*(np.array([row[name] for row in scored], np.int64) for name in ErrorCounts.__slots__))


def _scores(scored: Sequence[Row], counts: ErrorCounts, *, with_lenient: bool) -> dict[str, dict[str, Any]]:
    """The same answers after each normalization, ours first."""
    scores = {"caspi": _score(scored, counts, _name_normalizer(scored, STRICT))}
    of_ivrit = _in_style(scored, IVRIT)
    if of_ivrit:
        scores[IVRIT] = _score(of_ivrit, _count_normalized(of_ivrit, IVRIT), _name_normalizer(of_ivrit, IVRIT))
    if with_lenient:
        for name, forgive in lenient.KINDS.items():
            forgiven = [row for row in scored if row["language"] in lenient.LANGUAGES]
            if forgiven:
                pairs = [forgive(row["reference_scored"], row["hypothesis_scored"]) for row in forgiven]
                of_name = f"{_name_normalizer(forgiven, STRICT)}, then caspi.evaluation.lenient.{forgive.__name__}"
                scores[name] = _score(forgiven, count_errors(*zip(*pairs, strict=True)), of_name)
    return scores


def _score(rows: Sequence[Row], counts: ErrorCounts, normalizer: str) -> dict[str, Any]:
    score = pool(counts, clusters=[row["recording_id"] for row in rows])
    return {
        "wer": score.wer,
        "wer_interval": ends(score.wer_interval),
        "cer": score.cer,
        "cer_interval": ends(score.cer_interval),
        "word_errors": score.substitutions + score.deletions + score.insertions,
        "reference_words": score.reference_words,
        "num_utterances": score.num_utterances,
        "normalizer": normalizer,
    }


def _in_style(scored: Iterable[Row], style: str) -> list[Row]:
    return [row for row in scored if style in find_language(row["language"]).styles]


def _count_normalized(rows: Sequence[Row], style: str) -> ErrorCounts:
    """Errors after a normalization by its style, from the texts as they were written."""
    scorings = [text.normalizer(row["language"], style).scoring for row in rows]
    return count_errors(
        [scoring(row["reference"]) for scoring, row in zip(scorings, rows, strict=True)],
        [scoring(row["hypothesis"]) for scoring, row in zip(scorings, rows, strict=True)],
    )


def _name_normalizer(rows: Iterable[Mapping[str, Any]], style: str) -> str:
    second = "" if style == STRICT else f", {style!r}"
    return "+".join(
        f"caspi.text.normalizer({language!r}{second}).scoring" for language in sorted({row["language"] for row in rows})
    )


def _wall_s(transcribed: Iterable[Row]) -> float:
    """Seconds from the beginning of the first chunk to the end of the last, of each command that took part, summed.

    So models that wait for audio count, and Ray's start, the first loading and pauses between commands do not.
    """
    spans: dict[float, tuple[float, float]] = {}
    for row in transcribed:
        began, ended = spans.get(row["command_unix_s"], (float("inf"), float("-inf")))
        spans[row["command_unix_s"]] = min(began, row["began_unix_s"]), max(ended, row["ended_unix_s"])
    return sum(ended - began for began, ended in spans.values())


def _describe_work(transcribed: Sequence[Row]) -> dict[str, Any]:
    """When clips were transcribed, in UTC, and on how many of which devices at once."""
    began, ended = (
        datetime.fromtimestamp(choose(row[column] for row in transcribed), UTC).isoformat(timespec="seconds")
        for choose, column in ((min, "began_unix_s"), (max, "ended_unix_s"))
    )
    by_command = sorted({(row["command_unix_s"], row["device"], row["num_actors"]) for row in transcribed})
    kinds = dict.fromkeys((device, num_actors) for _, device, num_actors in by_command)
    return {
        "began": began,
        "ended": ended,
        "on": [dict(zip(("device", "num_actors"), each, strict=True)) for each in kinds],
    }


def _percentiles(values: Sequence[float]) -> dict[str, float]:
    p50, p95 = np.quantile(np.array(values), (0.5, 0.95))
    return {"p50": float(p50), "p95": float(p95)}
