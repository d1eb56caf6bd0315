"""A split through the model: Ray Data tasks read and decode, actors that each hold a model transcribe."""

import functools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from caspi import audio
from caspi.corpus.format import Corpus, Utterance
from caspi.errors import AudioError
from caspi.inference.transcription import Transcription

# An actor reserves less than a CPU, so that reading finds a place on every machine, even on one that has a single CPU.
_ACTOR_CPUS = 0.75
_READ_CPUS = 0.25

# A chunk travels decoded, as one block of the object store: 600 s are 38 MB.
_MAX_CHUNK_S = 600.0
_MAX_CHUNK_UTTERANCES = 64


class BatchTranscriber(Protocol):
    """What evaluation asks of a model. `caspi.Transcriber` is one."""

    def transcribe_batch(
        self, clips: Sequence[np.ndarray], *, languages: Sequence[str | None] | None = None
    ) -> Sequence[Transcription]:
        """Answers in the order of the clips."""
        ...


@dataclass(frozen=True, slots=True)
class Chunk:
    """Neighbouring rows of a shard that are read, decoded and transcribed together."""

    shard: str
    first_row: int
    num_rows: int


def transcribe_split(
    corpus: Corpus,
    split: str,
    factory: Callable[[], BatchTranscriber],
    *,
    limit: int | None = None,
    language: str | None = None,
    environment: Mapping[str, str] | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> list[dict[str, Any]]:
    """Transcribe a split, or its first `limit` utterances. Rows come in the corpus' order, whichever actor was faster.

    Args:
        factory: makes the transcriber, in each actor.
        language: what the model is told. Default: each utterance's own.
        environment: variables that the actors need, for instance where MLflow is.
        on_progress: called with the utterances done and those in all.

    Raises:
        CorpusError: the split does not exist or holds no utterance.
    """
    import ray

    index = corpus.index(split).slice(0, limit)
    chunks = plan_chunks(index)
    num_actors, resources = actor_pool(num_chunks=len(chunks))
    reading = functools.partial(
        _read_chunk, Corpus(corpus.path, corpus.manifest)
    )  # a fresh one: no index to ship along
    # The chunks are listed here rather than by `read_parquet`, whose listing wants a whole CPU: on a small machine the
    # actors would hold it, and both would wait for ever.
    transcribed = (
        ray.data.from_items([asdict(chunk) for chunk in chunks], override_num_blocks=len(chunks))
        .map_batches(reading, batch_size=1, batch_format="numpy", num_cpus=_READ_CPUS)
        .map_batches(
            TranscribeUtterances,
            fn_constructor_args=(factory, language),
            batch_size=None,  # a block as it is: one chunk
            batch_format="pyarrow",
            compute=ray.data.ActorPoolStrategy(min_size=1, max_size=num_actors, initial_size=num_actors),
            runtime_env={"env_vars": dict(environment)} if environment else None,
            **resources,
        )
    )
    rows: list[dict[str, Any]] = []
    for row in transcribed.iter_rows():
        rows.append(row)
        if on_progress is not None:
            on_progress(len(rows), len(index))
    place = {utterance_id: position for position, utterance_id in enumerate(index["utterance_id"].to_pylist())}
    return sorted(rows, key=lambda row: place[row["utterance_id"]])


def plan_chunks(index: pa.Table) -> list[Chunk]:
    """Cut the rows of an index, which are in shard order, into chunks of bounded duration."""
    chunks: list[Chunk] = []
    shard, first, num_rows, chunk_s = "", 0, 0, 0.0
    for row in index.select(["shard", "row", "duration_s"]).to_pylist():
        continues = row["shard"] == shard and row["row"] == first + num_rows
        full = num_rows >= _MAX_CHUNK_UTTERANCES or chunk_s + row["duration_s"] > _MAX_CHUNK_S
        if num_rows and (full or not continues):
            chunks.append(Chunk(shard, first, num_rows))
            num_rows = 0
        if not num_rows:
            shard, first, chunk_s = row["shard"], row["row"], 0.0
        num_rows += 1
        chunk_s += row["duration_s"]
    return [*chunks, Chunk(shard, first, num_rows)]


class TranscribeUtterances:
    """A member of the actor pool: loads the model once, then turns decoded chunks into hypotheses."""

    def __init__(self, factory: Callable[[], BatchTranscriber], language: str | None) -> None:
        self._transcriber = factory()
        self._language = language

    def __call__(self, chunk: pa.Table) -> pa.Table:
        """Replace `samples` by `hypothesis`; it is empty where the clip could not be decoded, as `error` says."""
        began = time.time()
        rows = chunk.to_pylist()
        for row in rows:
            row["language"] = self._language or row["language"]
        heard = [row for row in rows if row["error"] is None]
        answers = self._transcriber.transcribe_batch(
            [np.frombuffer(row["samples"], np.float32) for row in heard], languages=[row["language"] for row in heard]
        )
        hypotheses = {row["utterance_id"]: answer.text for row, answer in zip(heard, answers, strict=True)}
        ended = time.time()  # timed here, since reading and the model's loading are not part of its speed
        return pa.Table.from_pylist(
            [
                {
                    **{name: value for name, value in row.items() if name != "samples"},
                    "hypothesis": hypotheses.get(row["utterance_id"], ""),
                    "began_unix_s": began,
                    "ended_unix_s": ended,
                }
                for row in rows
            ],
            _TRANSCRIBED_SCHEMA,
        )


_READ_SCHEMA = pa.schema(
    [
        ("utterance_id", pa.string()),
        ("duration_s", pa.float64()),
        ("text", pa.string()),
        ("language", pa.string()),
        ("source", pa.string()),
        ("recording_id", pa.string()),
        ("speaker_id", pa.string()),
        ("error", pa.string()),  # why the clip cannot be used, null if it can
        ("samples", pa.large_binary()),  # float32; null with an error
    ]
)
_TRANSCRIBED_SCHEMA = pa.schema(
    [
        *(field for field in _READ_SCHEMA if field.name != "samples"),
        ("hypothesis", pa.string()),
        ("began_unix_s", pa.float64()),
        ("ended_unix_s", pa.float64()),
    ]
)


def _read_chunk(corpus: Corpus, batch: dict[str, np.ndarray]) -> pa.Table:
    """Read and decode the rows of one chunk (a batch of one)."""
    first = int(batch["first_row"][0])
    rows = range(first, first + int(batch["num_rows"][0]))
    return pa.Table.from_pylist(
        [_decode(each) for each in corpus.read_rows(str(batch["shard"][0]), rows)], _READ_SCHEMA
    )


def _decode(utterance: Utterance) -> dict[str, Any]:
    row = {name: getattr(utterance, name, None) for name in _READ_SCHEMA.names}
    try:
        decoded = audio.decode(utterance.audio, source=utterance.utterance_id)
    except AudioError as error:  # what one bad clip explains; anything else stops the evaluation
        return {**row, "error": error.reason}
    return {**row, "samples": decoded.samples.tobytes()}


def actor_pool(*, num_chunks: int) -> tuple[int, dict[str, float]]:
    """How many actors, and what each reserves: a GPU where there are some, else most of a CPU."""
    import ray

    cluster = ray.cluster_resources()
    kind = "GPU" if cluster.get("GPU", 0) >= 1 else "CPU"
    num_actors = max(1, min(int(cluster.get(kind, 1)), num_chunks))
    return num_actors, {"num_cpus": _ACTOR_CPUS} | ({"num_gpus": 1} if kind == "GPU" else {})
