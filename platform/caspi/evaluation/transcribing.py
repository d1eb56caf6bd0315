"""A split through the model: Ray Data tasks read and decode, actors that each hold a model transcribe."""

import functools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from caspi import audio
from caspi.audio import nonspeech
from caspi.corpus.format import Corpus, Utterance
from caspi.errors import AudioError, CaspiError, ModelError
from caspi.evaluation import witness
from caspi.evaluation.hallucination import NUM_CLIPS, make_clips
from caspi.evaluation.hypotheses import Hypotheses
from caspi.evaluation.systems import AnswersById, BatchTranscriber
from caspi.inference.transcription import Transcription
from caspi.tracking.node import describe_device

# An actor reserves less than a CPU, so that reading finds a place on every machine, even on one that has a single CPU.
_ACTOR_CPUS = 0.75
_READ_CPUS = 0.25

# A chunk travels decoded, as one block of the object store: 600 s are 38 MB. It is also what a kill may lose.
_MAX_CHUNK_S = 600.0
_MAX_CHUNK_UTTERANCES = 64

# Ray Data gives up after half an hour in which no chunk came to its end; a large model on a CPU takes longer for one.
_NO_PROGRESS_S = 6 * 3600

CRASHED = "transcriber_crashed"
"""Why a clip could not be used: the processes that transcribed it died."""

FAILED = "transcriber_failed"
"""Why a clip could not be used: the model raised an error when it was given this clip alone."""

_DEATHS_ALLOWED = 2  # one may be chance: a machine that was taken away
_MAX_DETAIL_CHARS = 1000


@dataclass(frozen=True, slots=True)
class Chunk:
    """Neighbouring rows of a shard that are read, decoded and transcribed together."""

    shard: str
    first_row: int
    num_rows: int

    @property
    def name(self) -> str:
        """A file name, the same for the same rows."""
        return f"{self.shard.removesuffix('.parquet').replace('/', '-')}-{self.first_row:07d}-{self.num_rows:03d}"


CLIPS_WITHOUT_SPEECH = Chunk("clips-without-speech", 0, NUM_CLIPS)
"""Not of the corpus: `hallucination.make_clips`."""


def transcribe_split(
    corpus: Corpus,
    index: pa.Table,
    factory: Callable[[], BatchTranscriber | AnswersById],
    kept: Hypotheses,
    *,
    with_clips: bool = True,
    language: str | None = None,
    environment: Mapping[str, str] | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Transcribe utterances, and the clips without speech. What `kept` holds already is not transcribed again.

    But for chunks with a clip that was left out because of the transcriber: it may have met a bad moment, a machine
    without memory for instance, and gets a second command. The answers of the second one stay.

    Args:
        index: rows of the corpus' index, in shard order.
        factory: makes the transcriber, in each actor.
        with_clips: ask about the clips without speech too. A file of hypotheses knows nothing of them.
        language: what the model is told. Default: each utterance's own.
        environment: variables that the actors need, for instance where MLflow is.
        on_progress: called with the utterances done and those in all.

    Returns:
        Rows of the utterances in the order of the index, whichever actor was faster, and rows of the clips. Each says
        when its chunk was transcribed, on which `device`, and by which command (`command_unix_s`, its beginning) with
        how many actors.
    """
    of_split = plan_chunks(index)
    chunks = [*of_split, CLIPS_WITHOUT_SPEECH] if with_clips else of_split
    found = {chunk.name: table for chunk in chunks if (table := kept.read(chunk.name)) is not None}
    tables = {name: table for name, table in found.items() if _is_settled(table)}
    missing = [chunk for chunk in chunks if chunk.name not in tables]
    reading = functools.partial(_read_chunk, corpus, _main_language(index))

    def report() -> None:
        num_done = sum(len(table) for name, table in tables.items() if name != CLIPS_WITHOUT_SPEECH.name)
        if on_progress is not None:
            on_progress(num_done, len(index))

    report()
    num_actors, pool = actor_pool(num_chunks=len(missing))
    stamp = {"command_unix_s": time.time(), "num_actors": num_actors}
    for table in _transcribe(missing, reading, factory, language, environment or {}, pool) if missing else ():
        name = table["chunk"][0].as_py()
        for column, value in (*stamp.items(), ("is_second_try", name in found)):
            table = table.append_column(column, pa.array([value] * len(table)))
        kept.write(name, table)  # at once: what is written here no kill can take
        tables[name] = table
        report()
    rows = pa.concat_tables(tables[chunk.name] for chunk in of_split).to_pylist()
    assert [row["utterance_id"] for row in rows] == index["utterance_id"].to_pylist()
    return rows, tables[CLIPS_WITHOUT_SPEECH.name].to_pylist() if with_clips else []


def _is_settled(table: pa.Table) -> bool:
    """Whether the answers to a chunk are to stay."""
    failed = pc.is_in(table["error"], pa.array([CRASHED, FAILED]))
    return table["is_second_try"][0].as_py() or not pc.any(failed).as_py()


def _transcribe(
    chunks: Sequence[Chunk],
    reading: Callable[[dict[str, np.ndarray]], pa.Table],
    factory: Callable[[], BatchTranscriber | AnswersById],
    language: str | None,
    environment: Mapping[str, str],
    pool: Mapping[str, Any],
) -> Iterator[pa.Table]:
    """The answers to each chunk, as they come."""
    import ray

    watching = witness.start()
    # The chunks are listed here rather than by `read_parquet`, whose listing wants a whole CPU: on a small machine the
    # actors would hold it, and both would wait for ever.
    transcribed = (
        ray.data.from_items([asdict(chunk) for chunk in chunks], override_num_blocks=len(chunks))
        .map_batches(
            functools.partial(_telling, watching, reading), batch_size=1, batch_format="numpy", num_cpus=_READ_CPUS
        )
        .map_batches(
            TranscribeUtterances,
            fn_constructor_args=(factory, language, watching),
            batch_size=None,  # a block as it is: one chunk
            batch_format="pyarrow",
            runtime_env={"env_vars": dict(environment)} if environment else None,
            **pool,
        )
    )
    transcribed.context.execution_no_progress_timeout_s = _NO_PROGRESS_S
    with witness.told(watching):
        yield from transcribed.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0)


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
    """A member of the actor pool: loads the model once, then turns decoded chunks into hypotheses.

    Ray gives a chunk to another actor when one dies. Where two died of a chunk, or the model raised an error, its clips
    are transcribed one by one. One that another two die of is left out as `transcriber_crashed`, one that the model
    raises an error for as `transcriber_failed`: neither must end what all others begin.
    """

    def __init__(
        self, factory: Callable[[], BatchTranscriber | AnswersById], language: str | None, watching: Any
    ) -> None:
        self._language, self._witness = language, watching
        with witness.telling(self._witness):
            self._transcriber = factory()
        self._device = describe_device()

    def __call__(self, chunk: pa.Table) -> pa.Table:
        """Replace `samples` by `hypothesis`; it is empty where `error` says why the clip could not be used."""
        began = time.time()
        rows = chunk.to_pylist()
        for row in rows:
            row.update(language=self._language or row["language"], hypothesis="")
        heard = [row for row in rows if row["error"] is None]
        if self._transcribe(rows[0]["chunk"], heard):
            self._transcribe_singly(heard)
        times = {"began_unix_s": began, "ended_unix_s": time.time()}
        return pa.Table.from_pylist([{**row, **times, "device": self._device} for row in rows], _TRANSCRIBED_SCHEMA)

    def _transcribe_singly(self, rows: Sequence[dict[str, Any]]) -> None:
        """Leave out those that cannot be transcribed.

        Raises:
            ModelError: the model transcribes nothing any more, whatever it is given.
        """
        for row in rows:
            if problem := self._transcribe(row["utterance_id"], [row]):
                row["error"], row["error_detail"] = problem
        if rows and all(row["error"] == FAILED for row in rows):
            # They may all be bad. But an error of CUDA stays, and would be blamed on every clip that is left.
            with witness.telling(self._witness):
                self._check_model(rows[0]["language"])

    def _check_model(self, language: str) -> None:
        assert not isinstance(self._transcriber, AnswersById), "a file raises nothing but what ends the evaluation"
        second = nonspeech.at_level(nonspeech.pink(audio.SAMPLE_RATE, np.random.default_rng(0)), -30.0)
        try:
            self._transcriber.transcribe_batch([second], languages=[language])
        except CaspiError:
            raise
        except Exception as error:
            raise ModelError(
                f"the model fails on every clip, even on a second of noise: {type(error).__name__}: {error}"
            ) from error

    def _transcribe(self, name: str, rows: Sequence[dict[str, Any]]) -> tuple[str, str] | None:
        """Add the answers to rows. Where there are none, why: a reason, and what is known of it."""
        num_deaths = witness.deaths(self._witness, name)
        if num_deaths >= _DEATHS_ALLOWED:
            return CRASHED, f"{num_deaths} processes died of it"
        began = time.perf_counter()
        try:
            with witness.telling(self._witness):
                answers = self._answer(rows) if rows else []
        except CaspiError:  # says by itself that there is no use in going on
            raise
        except Exception as error:  # what a model raises for a clip that it cannot take may be anything
            self._witness.end.remote(name)
            return FAILED, f"{type(error).__name__}: {error}"[:_MAX_DETAIL_CHARS]
        elapsed_s = time.perf_counter() - began
        for row, answer in zip(rows, answers, strict=True):
            row["hypothesis"] = answer.text.encode("utf-8", "replace").decode()  # JSON may bring half a letter
            # One that does not say how long it took answered them all together.
            row["latency_s"] = elapsed_s if answer.latency_s is None else answer.latency_s
        self._witness.end.remote(name)
        return None

    def _answer(self, rows: Sequence[Mapping[str, Any]]) -> Sequence[Transcription]:
        languages = [row["language"] for row in rows]
        if isinstance(self._transcriber, AnswersById):
            texts = self._transcriber.recall([row["utterance_id"] for row in rows])
            return [
                Transcription(text, language, row["duration_s"])
                for text, language, row in zip(texts, languages, rows, strict=True)
            ]
        clips = [np.frombuffer(row["samples"], np.float32) for row in rows]
        return self._transcriber.transcribe_batch(clips, languages=languages)


_READ_SCHEMA = pa.schema(
    [
        ("chunk", pa.string()),  # the name
        ("utterance_id", pa.string()),
        ("duration_s", pa.float64()),
        ("text", pa.string()),
        ("language", pa.string()),
        ("source", pa.string()),
        ("recording_id", pa.string()),
        ("speaker_id", pa.string()),
        ("error", pa.string()),  # why the clip cannot be used, null if it can
        ("error_detail", pa.string()),
        ("samples", pa.large_binary()),  # float32; null with an error
    ]
)
_TRANSCRIBED_SCHEMA = pa.schema(
    [
        *(field for field in _READ_SCHEMA if field.name != "samples"),
        ("hypothesis", pa.string()),
        ("latency_s", pa.float64()),
        ("began_unix_s", pa.float64()),  # of the chunk
        ("ended_unix_s", pa.float64()),
        ("device", pa.string()),  # that it was transcribed on
    ]
)


def _telling(
    watching: Any, reading: Callable[[dict[str, np.ndarray]], pa.Table], batch: dict[str, np.ndarray]
) -> pa.Table:
    with witness.telling(watching):
        return reading(batch)


def _read_chunk(corpus: Corpus, main_language: str, batch: dict[str, np.ndarray]) -> pa.Table:
    """Read and decode the rows of one chunk (a batch of one)."""
    chunk = Chunk(str(batch["shard"][0]), int(batch["first_row"][0]), int(batch["num_rows"][0]))
    if chunk == CLIPS_WITHOUT_SPEECH:
        rows = _clips_without_speech(main_language)
    else:
        wanted = range(chunk.first_row, chunk.first_row + chunk.num_rows)
        rows = [_decode(each) for each in corpus.read_rows(chunk.shard, wanted)]
    return pa.Table.from_pylist([{**row, "chunk": chunk.name} for row in rows], _READ_SCHEMA)


def _decode(utterance: Utterance) -> dict[str, Any]:
    row = {name: getattr(utterance, name, None) for name in _READ_SCHEMA.names}
    try:
        decoded = audio.decode(utterance.audio, source=utterance.utterance_id)
    except AudioError as error:  # what one bad clip explains; anything else stops the evaluation
        return {**row, "error": error.reason, "error_detail": str(error)}
    return {**row, "samples": decoded.samples.tobytes()}


def _clips_without_speech(language: str) -> list[dict[str, Any]]:
    return [
        {
            "utterance_id": clip.clip_id,
            "duration_s": len(clip.samples) / audio.SAMPLE_RATE,
            "text": "",
            "language": language,
            "source": clip.kind,
            "recording_id": clip.clip_id,
            "samples": clip.samples.tobytes(),
        }
        for clip in make_clips()
    ]


def _main_language(index: pa.Table) -> str:
    """The language of most utterances."""
    counts = pc.value_counts(index["language"]).to_pylist()
    return str(max(counts, key=lambda each: each["counts"])["values"])


def actor_pool(*, num_chunks: int) -> tuple[int, dict[str, Any]]:
    """How many actors, and what `map_batches` is told of them: each has a GPU where there are some, else most of a CPU.

    A pool that may shrink does so after ten seconds: beside what reads, it is above its share of the CPUs.
    """
    import ray

    cluster = ray.cluster_resources()
    kind = "GPU" if cluster.get("GPU", 0) >= 1 else "CPU"
    num_actors = max(1, min(int(cluster.get(kind, 1)), num_chunks))
    pool = {"compute": ray.data.ActorPoolStrategy(size=num_actors), "num_cpus": _ACTOR_CPUS}
    return num_actors, pool | ({"num_gpus": 1} if kind == "GPU" else {})
