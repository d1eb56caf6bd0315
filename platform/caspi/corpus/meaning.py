"""A judge of meaning: a model listens to every utterance, and transcripts that belong to something else are refused."""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from caspi import audio
from caspi.corpus.chunks import status
from caspi.corpus.format import LISTEN_S
from caspi.corpus.ledger import LEDGER_SCHEMA
from caspi.corpus.staging import Stage, read_arrow, write_arrow
from caspi.evaluation import witness
from caspi.evaluation.metrics import count_errors
from caspi.evaluation.reaching import reachable
from caspi.evaluation.systems import load_caspi
from caspi.evaluation.transcribing import BatchTranscriber, actor_pool
from caspi.recipe.data import Meaning
from caspi.recipe.sections import Recipe
from caspi.text import normalizer

REASON = "disagrees_with_model"

Factory = Callable[[], BatchTranscriber]


def judge_chunks(
    keys: Sequence[str], recipe: Recipe, parts: Path, *, factory: Factory | None = None
) -> Iterator[pa.Table]:
    """Listen to the utterances of prepared chunks; yields how much each chunk came to, as they come.

    Each chunk gets a second ledger, with `judge_wer` and the new refusals.

    Raises:
        ModelError: `data.meaning.model` is not a model, or cannot be loaded where it is asked.
    """
    import ray

    meaning = recipe.data.meaning
    assert meaning is not None, "the caller asks only where the recipe does"
    if not keys:
        return
    with reachable(meaning.model, needed=factory is None) as found:
        make = factory or functools.partial(load_caspi, found.model, recipe.inference)
        _, pool = actor_pool(num_chunks=len(keys))
        watching = witness.start()
        judged = ray.data.from_items([{"key": key} for key in keys], override_num_blocks=len(keys)).map_batches(
            _Judge,
            fn_constructor_args=(make, meaning, parts, watching),
            batch_size=1,
            batch_format="numpy",
            runtime_env={"env_vars": dict(found.environment)} if found.environment else None,
            **pool,
        )
        with witness.told(watching):
            yield from judged.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0)


class _Judge:
    """A member of the actor pool: loads the model once."""

    def __init__(self, factory: Factory, meaning: Meaning, parts: Path, watching: Any) -> None:
        with witness.telling(watching):
            self._transcriber = factory()
        self._meaning, self._stage = meaning, Stage(parts)

    def __call__(self, batch: Mapping[str, np.ndarray]) -> pa.Table:
        key = str(batch["key"][0])
        ledger = read_arrow(self._stage.ledger(key))
        judged = judge(ledger, self._stage.path, self._transcriber, self._meaning)
        write_arrow(judged, self._stage.judged(key))
        return status(judged, 1 + max(ledger["row"].to_pylist(), default=-1))


def judge(ledger: pa.Table, parts: Path, transcriber: BatchTranscriber, meaning: Meaning) -> pa.Table:
    """A chunk's ledger with `judge_wer`, and with refusals where the model disagrees."""
    rows = ledger.to_pylist()
    files: dict[str, pa.Table] = {}
    kept = [row for row in rows if row["reason"] is None]
    for row in kept:
        files.setdefault(row["file"], read_arrow(parts / row["file"]))
    utterances = [files[row["file"]].slice(row["file_row"], 1).to_pylist()[0] for row in kept]
    clips = [audio.decode(each["audio"], source=each["utterance_id"]).samples for each in utterances]
    if kept:
        answers = transcriber.transcribe_batch(clips, languages=[each["language"] for each in utterances])
        scorings = [normalizer(each["language"]).scoring for each in utterances]
        references = [scoring(each["text"]) for scoring, each in zip(scorings, utterances, strict=True)]
        heard = [scoring(answer.text) for scoring, answer in zip(scorings, answers, strict=True)]
        counts = count_errors(references, heard)
        wers = counts.word_errors / np.maximum(counts.reference_words, 1)
        for row, utterance, answer, wer, clip in zip(kept, utterances, answers, wers, clips, strict=True):
            row["judge_wer"] = float(wer)
            if wer > meaning.max_wer and meaning.refuse:
                row.update(_refused(utterance, answer.text, float(wer), meaning, clip))
    return pa.Table.from_pylist(rows, schema=LEDGER_SCHEMA)


def _refused(utterance: dict[str, Any], heard: str, wer: float, meaning: Meaning, clip: np.ndarray) -> dict[str, Any]:
    return {
        "reason": REASON,
        "detail": f"WER {wer:.2f} is above {meaning.max_wer}; the model heard: {heard}",
        "text": utterance["text"],
        "example": audio.encode_mp3(clip[: round(LISTEN_S * audio.SAMPLE_RATE)]),
        **dict.fromkeys(("split", "num_samples", "shuffle_key", "file", "file_row")),
        **dict.fromkeys(("id_digest", "recording_digest", "text_digest", "audio_digest")),
    }
