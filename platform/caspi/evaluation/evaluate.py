"""`caspi evaluate`: transcribe a split, score it, and write what a person and a program want to know."""

import functools
import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from caspi import ray_session, text
from caspi.corpus.format import Corpus
from caspi.errors import CorpusError
from caspi.evaluation.hypotheses import Hypotheses, fingerprint_model, open_hypotheses
from caspi.evaluation.reaching import reachable
from caspi.evaluation.report import write_report
from caspi.evaluation.results import Results
from caspi.evaluation.scoring import Row, score_rows, summarize
from caspi.evaluation.systems import AnswersById, BatchTranscriber, load_caspi, open_system
from caspi.evaluation.transcribing import CRASHED, FAILED, transcribe_split
from caspi.recipe.sections import Inference

logger = logging.getLogger(__name__)

Factory = Callable[[], BatchTranscriber | AnswersById]


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
    lenient: bool = False,
    overwrite: bool = False,
    with_rejected: bool = False,
    sources: Mapping[str, Any] | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Transcribe a split and write `metrics.json`, `utterances.parquet` and `report.html`. Returns the metrics.

    A clip that cannot be decoded or transcribed is counted in `num_failed` and left out of the rates. Intervals
    resample recordings. Hypotheses are kept in `OUTPUT/hypotheses` as they come: a call that was killed goes on when it
    is repeated, and one that had come to its end only scores again.

    Args:
        model: a Caspi model, or anything else that `systems.open_system` opens.
        language: ISO 639 code that the model is told and texts are normalized for. Default: each utterance's own.
        limits: batch size and length of answers, as in a recipe's `inference`.
        limit: only the first so many utterances of the split.
        factory: makes the transcriber instead of what `model` names.
        lenient: add scores that forgive how numbers and vowel letters are written.
        overwrite: begin anew: replace whatever evaluation `output` holds, and ask again what was asked already.
        with_rejected: count what preparing refused among the clips that could not be used, with its reasons.
        sources: what the recipe says of the corpus' sources, where each is in it whole and as it was written.
        on_progress: called with the utterances done and those in all.

    Raises:
        CorpusError: this is not a corpus, or the split holds nothing that can be scored.
        ModelError: this is not a model.
        RequestError: an endpoint does not answer, or a file of hypotheses lacks some.
        ResultsError: `output` holds an evaluation of another model, corpus or setting, or by another version of Caspi
            or transformers.
    """
    corpus = corpus if isinstance(corpus, Corpus) else Corpus.open(corpus)
    if language is not None:
        text.normalizer(language)
    index = corpus.index(split).slice(0, limit)  # a mistyped split is known before Ray and the model cost a minute
    system = open_system(str(model), limits=limits)
    if system.kind == "file":
        hypotheses = system.load()
        assert isinstance(hypotheses, AnswersById)
        hypotheses.recall(index["utterance_id"].to_pylist())  # what is missing is known before Ray costs a minute
    output = Path(output).expanduser().absolute()
    with ray_session.connect(), reachable(str(model), needed=factory is None) as found:
        if system.kind == "caspi":
            system = replace(system, load=functools.partial(load_caspi, found.model, limits or Inference()))
        request = {
            "model": found.model,
            "model_fingerprint": fingerprint_model(found.files),
            "corpus_fingerprint": corpus.fingerprint,
            "split": split,
            "language": language,
            "limit": limit,
            "inference": (limits or Inference()).model_dump(),
            # What an endpoint or a file says does not depend on what is installed here.
            "versions": versions() if system.kind in ("caspi", "huggingface") else None,
        }
        with open_hypotheses(output, request, overwrite=overwrite) as kept:
            _warn_of_old_answers(request, kept)
            rows, clips = transcribe_split(
                corpus,
                index,
                factory or system.load,
                kept,
                with_clips=system.kind != "file",
                language=language,
                environment=found.environment,
                on_progress=on_progress,
            )
            _warn_of_losses([*rows, *clips])
            _add_places(rows, index)
            if with_rejected:
                rows += _rejected(corpus)
            if all(row["error"] for row in rows):
                raise CorpusError(
                    f"{corpus.location}: none of the {len(rows)} utterances of its {split} split could be used: "
                    + _why(rows)
                )
            score_rows(rows)
            score_rows(clips)
            metrics = summarize(rows, clips, with_lenient=lenient) | {
                "split": split,
                "model": found.model,
                "model_fingerprint": request["model_fingerprint"],
                "system": {"name": system.name, "kind": system.kind},
                "corpus": corpus.location,
                "corpus_fingerprint": corpus.fingerprint,
                "limit": limit,
                "sources": sources if limit is None else None,
                "versions": request["versions"],
            }
            _leave_out_what_is_not_ours(metrics)
            results = Results.of_rows(metrics, rows)
            write_report(output, results)
            results.write(output)
    return metrics


def _warn_of_old_answers(request: Mapping[str, Any], kept: Hypotheses) -> None:
    if request["model_fingerprint"] == request["model"] and (asked := kept.oldest()):
        logger.warning(
            "%s is known by its name alone, which does not tell whether it is still the same: what it said since %s is "
            "used. --overwrite asks it anew",
            request["model"], asked.strftime("%Y-%m-%d %H:%M UTC"),
        )  # fmt: skip


def _warn_of_losses(rows: Sequence[Row]) -> None:
    lost = [row for row in rows if row["error"] in (CRASHED, FAILED)]
    if lost:
        again = [row for row in lost if not row["is_second_try"]]
        advice = "the same command tries them again" if again else "--overwrite begins anew"
        logger.warning("could not be transcribed, and is in no rate: %s; %s", _why(lost), advice)


def _leave_out_what_is_not_ours(metrics: dict[str, Any]) -> None:
    """An endpoint's device is not known; a file was only read, which is no speed."""
    kind = metrics["system"]["kind"]
    if kind == "endpoint":
        for each in metrics["transcribed"]["on"]:
            each["device"] = None
    elif kind == "file":
        metrics.update(dict.fromkeys(("rtfx", "transcribe_s", "latency_s", "transcribed")))


def versions() -> dict[str, str]:
    """Of the code that a model's answers depend on."""
    return {name: metadata.version(name) for name in ("caspi", "transformers")}


def _add_places(rows: list[Row], index: pa.Table) -> None:
    """What the index knows of each utterance beyond the answer. Rows are in its order."""
    for row, place in zip(rows, index.select(["shard", "row", "snr_db"]).to_pylist(), strict=True):
        row.update(place)


def _why(rows: Sequence[Row]) -> str:
    """Why rows could not be used: every reason with its count, and what is known of the first such row."""
    details: dict[str, str] = {}
    for row in rows:
        details.setdefault(row["error"], row["error_detail"] or "")
    counts = Counter(row["error"] for row in rows)
    return "; ".join(f"{count} {reason} ({details[reason]})" for reason, count in counts.most_common())


def _rejected(corpus: Corpus) -> list[Row]:
    """What preparing refused, as rows that could not be used."""
    return [
        {
            "utterance_id": refusal["utterance_id"] or refusal["recording_id"],
            "text": refusal["text"] or "",
            "hypothesis": "",
            "language": corpus.manifest["language"],
            "source": refusal["source"],
            "recording_id": refusal["recording_id"],
            "duration_s": None if refusal["start_s"] is None else refusal["end_s"] - refusal["start_s"],
            "error": refusal["reason"],
            "error_detail": refusal["detail"],
        }
        for refusal in pq.read_table(corpus.file("rejected.parquet")).to_pylist()
    ]
