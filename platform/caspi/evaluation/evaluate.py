"""`caspi evaluate`: transcribe a split, score it, and write what a person and a program want to know."""

import contextlib
import functools
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from caspi import ray_session, settings, text, tracking
from caspi.corpus.format import Corpus
from caspi.errors import CorpusError
from caspi.evaluation.metrics import ErrorCounts, count_errors, pool
from caspi.evaluation.report import write_report
from caspi.evaluation.results import Results
from caspi.evaluation.slices import score_slices
from caspi.evaluation.transcribing import BatchTranscriber, transcribe_split
from caspi.recipe.sections import Inference

Factory = Callable[[], BatchTranscriber]


def evaluate(
    model: str | Path,
    corpus: Corpus | str | Path,
    *,
    output: str | Path,
    split: str = "test",
    language: str | None = None,
    limits: Inference | None = None,
    limit: int | None = None,
    factory: Factory | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Transcribe a split and write `metrics.json`, `utterances.parquet` and `report.html`. Returns the metrics.

    A clip that cannot be decoded is counted in `num_failed` and left out of the rates. The interval resamples
    recordings.

    Args:
        language: ISO 639 code that the model is told and texts are normalized for. Default: each utterance's own.
        limits: batch size and length of answers, as in a recipe's `inference`.
        limit: only the first so many utterances of the split.
        factory: makes the transcriber instead of `caspi.Transcriber.load(model)`.
        on_progress: called with the utterances done and those in all.

    Raises:
        CorpusError: this is not a corpus, or the split holds nothing that can be scored.
        ModelError: this is not a model.
    """
    corpus = corpus if isinstance(corpus, Corpus) else Corpus.open(corpus)
    if language is not None:
        text.normalizer(language)
    corpus.index(split)  # a mistyped split is known before Ray and the model cost a minute
    with ray_session.connect(), reachable(str(model), needed=factory is None) as environment:
        rows = transcribe_split(
            corpus,
            split,
            factory or functools.partial(load_transcriber, str(model), limits),
            limit=limit,
            language=language,
            environment=environment,
            on_progress=on_progress,
        )
    for row in rows:
        scoring = text.normalizer(row["language"]).scoring
        row.update(
            reference=row["text"],
            reference_scored=scoring(row["text"]),
            hypothesis_scored=scoring(row["hypothesis"]),
        )
    scored = [row for row in rows if not row["error"]]
    if not scored:
        raise CorpusError(f"{corpus.path}: none of the {len(rows)} utterances of its {split} split can be decoded")
    counts = count_errors([row["reference_scored"] for row in scored], [row["hypothesis_scored"] for row in scored])
    _add_counts(scored, counts)
    metrics = _summarize(rows, scored, counts) | {
        "split": split,
        "model": str(model),
        "corpus": str(corpus.path),
        "corpus_fingerprint": corpus.fingerprint,
    }
    _write(Path(output), metrics, rows)
    return metrics


def load_transcriber(model: str, limits: Inference | None) -> BatchTranscriber:
    """Runs in the actors: the driver needs no torch."""
    from caspi.inference.transcriber import Transcriber

    return Transcriber.load(model, limits=limits)


@contextlib.contextmanager
def reachable(model: str, *, needed: bool) -> Iterator[Mapping[str, str]]:
    """What the actors need to know to find a model in MLflow: the address of a server that runs meanwhile."""
    if not needed or not tracking.is_uri(model):
        yield {}
        return
    with tracking.server() as uri:
        tracking.resolve(model, uri=uri)  # fails here, once; on this machine the actors find it downloaded
        yield {"MLFLOW_TRACKING_URI": uri, "CASPI_HOME": str(settings.read().home)}


def _add_counts(scored: list[dict[str, Any]], counts: ErrorCounts) -> None:
    columns = ("substitutions", "deletions", "insertions", "hits", "reference_words", "character_errors")
    for position, row in enumerate(scored):
        row.update({name: int(getattr(counts, name)[position]) for name in (*columns, "reference_characters")})
        row["wer"] = int(counts.word_errors[position]) / max(1, row["reference_words"])


def _summarize(rows: list[dict[str, Any]], scored: list[dict[str, Any]], counts: ErrorCounts) -> dict[str, Any]:
    """Everything in metrics.json that follows from the rows."""
    recordings = [row["recording_id"] for row in scored]
    languages = sorted({row["language"] for row in scored})
    silent = [row for row in scored if not row["reference_scored"]]
    failed = Counter(row["error"] for row in rows if row["error"])
    audio_s = sum(row["duration_s"] for row in scored)
    elapsed_s = max(row["ended_unix_s"] for row in scored) - min(row["began_unix_s"] for row in scored)
    return {
        **asdict(pool(counts, clusters=recordings)),
        "num_recordings": len(set(recordings)),
        "num_silent": len(silent),
        "num_hallucinated_on_silence": sum(bool(row["hypothesis_scored"]) for row in silent),
        "num_failed": sum(failed.values()),
        "failed_by_reason": dict(sorted(failed.items())),
        "slices": score_slices(
            counts,
            sources=[row["source"] for row in scored],
            speakers=[row["speaker_id"] for row in scored],
            durations_s=[row["duration_s"] for row in scored],
            recordings=recordings,
        ),
        "normalizer": "+".join(f"caspi.text.normalizer({language!r}).scoring" for language in languages),
        "audio_s": audio_s,
        "transcribe_s": elapsed_s,
        "rtfx": audio_s / max(elapsed_s, 1e-9),
    }


def _write(output: Path, metrics: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    for row in rows:
        if row["error"]:
            row["hypothesis"] = row["hypothesis_scored"] = None
    results = Results.of_rows(metrics, rows)
    write_report(output, results)
    results.write(output)
