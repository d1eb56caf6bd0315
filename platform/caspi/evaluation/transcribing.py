"""The test split through the model: Ray Data actors that each hold one."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from caspi import audio
from caspi.corpus.format import Corpus
from caspi.errors import AudioError
from caspi.inference.transcription import Transcription

# A pool member reserves less than a CPU, so that reading finds a place beside it even on two cores.
_ACTOR_CPUS = 0.75
_READ_CPUS = 0.25
# Utterances that travel together; the transcriber makes its own batches, of similar length, out of them.
_UTTERANCES_PER_CALL = 64


class BatchTranscriber(Protocol):
    """What evaluation asks of a model. `caspi.Transcriber` is one."""

    def transcribe_batch(
        self, clips: Sequence[np.ndarray], *, languages: Sequence[str | None] | None = None
    ) -> Sequence[Transcription]: ...


class TranscribeUtterances:
    """A member of the actor pool: loads the model once, then turns encoded audio into hypotheses."""

    def __init__(self, factory: Callable[[], BatchTranscriber], language: str | None) -> None:
        self._transcriber = factory()
        self._language = language

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Replace `audio` by `hypothesis`, or by `error` where a clip cannot be used."""
        began = time.time()
        clips: list[np.ndarray] = []
        heard: list[int] = []
        errors: list[str] = [""] * len(batch["audio"])
        for position, encoded in enumerate(batch["audio"]):
            try:
                clips.append(audio.decode(encoded, source=batch["utterance_id"][position]).samples)
                heard.append(position)
            except AudioError as error:
                errors[position] = error.reason
        languages = [self._language or each for each in batch["language"]]
        answers = (
            self._transcriber.transcribe_batch(clips, languages=[languages[position] for position in heard])
            if clips
            else []
        )
        hypotheses = [""] * len(errors)
        for position, answer in zip(heard, answers, strict=True):
            hypotheses[position] = answer.text
        rest = {name: column for name, column in batch.items() if name != "audio"} | {"language": languages}
        # Timed here, since the model's loading is not part of its speed.
        times = {"began_unix_s": [began] * len(errors), "ended_unix_s": [time.time()] * len(errors)}
        return {**rest, "hypothesis": hypotheses, "error": errors, **times}


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
    index = corpus.index(split).slice(0, limit)
    place = {utterance_id: position for position, utterance_id in enumerate(index["utterance_id"].to_pylist())}
    shards = [str(corpus.path / shard) for shard in dict.fromkeys(index["shard"].to_pylist())]
    rows: list[dict[str, Any]] = []
    for row in _stream(shards, set(place), (factory, language), dict(environment or {})):
        rows.append(row)
        if on_progress is not None:
            on_progress(len(rows), len(place))
    return sorted(rows, key=lambda row: place[row["utterance_id"]])


def _stream(
    shards: list[str],
    wanted: set[str],
    constructor_args: tuple[Callable[[], BatchTranscriber], str | None],
    environment: dict[str, str],
) -> Iterator[dict[str, Any]]:
    """Rows as they become ready."""
    import ray

    num_actors, resources = _pool(num_utterances=len(wanted))
    dataset = ray.data.read_parquet(
        shards,
        columns=["utterance_id", "audio", "duration_s", "text", "language", "source", "recording_id", "speaker_id"],
        partitioning=None,  # a folder called `a=b` is no column
        override_num_blocks=max(len(shards), -(-len(wanted) // _UTTERANCES_PER_CALL)),
        num_cpus=_READ_CPUS,
    )
    transcribed = dataset.map_batches(
        lambda table: table.filter(pc.is_in(table["utterance_id"], pa.array(sorted(wanted)))),
        batch_format="pyarrow",
        num_cpus=_READ_CPUS,
    ).map_batches(
        TranscribeUtterances,
        fn_constructor_args=constructor_args,
        batch_size=_UTTERANCES_PER_CALL,
        compute=ray.data.ActorPoolStrategy(min_size=1, max_size=num_actors, initial_size=num_actors),
        runtime_env={"env_vars": environment} if environment else None,
        **resources,
    )
    yield from transcribed.iter_rows()


def _pool(*, num_utterances: int) -> tuple[int, dict[str, float]]:
    """How many actors, and what each reserves: a GPU where there are some, else most of a CPU."""
    import ray

    cluster = ray.cluster_resources()
    most = -(-num_utterances // _UTTERANCES_PER_CALL)
    if cluster.get("GPU", 0) >= 1:
        return max(1, min(int(cluster["GPU"]), most)), {"num_gpus": 1, "num_cpus": _ACTOR_CPUS}
    return max(1, min(int(cluster.get("CPU", 1)), most)), {"num_cpus": _ACTOR_CPUS}
