"""Judging the model while it learns: WER by transcribing the same part of the validation split each time."""

import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import torch
import torch.distributed as dist

from caspi import audio, evaluation
from caspi.corpus import Corpus
from caspi.inference.transcriber import Transcriber
from caspi.model import Loaded, load
from caspi.recipe import Recipe
from caspi.training.checkpoint import Grade, read_state
from caspi.training.reading import ShardReader
from caspi.training.step import autocast_type

logger = logging.getLogger(__name__)

# At the end of a run nothing else waits for a judgement; but on a cluster that has shrunk its task may never get room,
# since the workers hold theirs until they all return.
_NO_ROOM_S = 900.0

_TABLE_ROWS = 50  # of the answers that are kept with each judgement


@dataclass(frozen=True, slots=True)
class Answer:
    """What the model wrote for an utterance."""

    utterance_id: str
    reference: str
    hypothesis: str


@dataclass(frozen=True, slots=True)
class Judgement:
    """How good a model is, and a few of its answers: always to the same utterances."""

    grade: Grade
    answers: tuple[Answer, ...]
    language: str  # ISO 639
    seconds: float  # that it took


@dataclass(frozen=True)
class Examiner:
    """Transcribes the same utterances each time; `world_size` of them share the work."""

    recipe: Recipe
    corpus: Corpus
    loaded: Loaded
    rank: int = 0
    world_size: int = 1

    def judge(self, step: int, *, autocast: torch.dtype | None) -> Judgement | None:
        """The model's errors, the same on every rank. None: the corpus has no validation split."""
        started = time.perf_counter()
        size = num_judged(self.corpus, self.recipe)
        if not size:
            return None
        mine = self._transcribe(range(self.rank, size, self.world_size), autocast)
        gathered = [mine] * self.world_size
        if self.world_size > 1:
            dist.all_gather_object(gathered, mine)
        answers = _in_turn(gathered)
        score = evaluation.score(
            [answer.reference for answer in answers],
            [answer.hypothesis for answer in answers],
            language=self.recipe.data.language,
        )
        grade, language = Grade(step, score.wer, score.cer), self.recipe.data.language
        return Judgement(grade, tuple(answers[:_TABLE_ROWS]), language, time.perf_counter() - started)

    def _transcribe(self, positions: range, autocast: torch.dtype | None) -> list[Answer]:
        reader, language = ShardReader.of_split(self.corpus, "validation"), self.recipe.data.language
        utterances = [reader.read(position) for position in positions]
        clips = [audio.decode(utterance.encoded, source=utterance.utterance_id).samples for utterance in utterances]
        self.loaded.model.eval()
        transcriber = Transcriber(self.loaded, limits=self.recipe.inference)
        device = next(self.loaded.model.parameters()).device
        with torch.autocast(device.type, dtype=autocast, enabled=autocast is not None):
            written = transcriber.transcribe_batch(clips, languages=[language] * len(clips))
        self.loaded.model.train()
        return [
            Answer(utterance.utterance_id, utterance.text, transcription.text)
            for utterance, transcription in zip(utterances, written, strict=True)
        ]


def num_judged(corpus: Corpus, recipe: Recipe) -> int:
    """Utterances that are transcribed each time. Shards are shuffled, so the first ones are a fair sample."""
    size = pc.sum(pc.equal(corpus.utterances["split"], "validation")).as_py() or 0
    return int(min(size, recipe.training.validation.max_utterances))


def _in_turn(parts: Sequence[Sequence[Answer]]) -> list[Answer]:
    """The answers of all ranks in the order of the split, whatever the number of ranks."""
    longest = max(map(len, parts))
    return [part[place] for place in range(longest) for part in parts if place < len(part)]


class Aside:
    """Judges checkpoints in Ray tasks beside the run, which need the room of one worker."""

    def __init__(self, recipe: Recipe, corpus: Corpus) -> None:
        import ray

        workers = recipe.training.workers
        self._recipe, self._corpus = recipe, corpus
        self._task = ray.remote(_judge_checkpoint).options(
            num_cpus=workers.cpus_per_worker,
            num_gpus=1 if workers.use_gpu else 0,
            accelerator_type=workers.accelerator_type,
            max_retries=workers.max_failures,
        )
        self._waiting: dict[Any, tuple[int, Path]] = {}

    @property
    def steps(self) -> frozenset[int]:
        """The checkpoints that are being judged, which must not be removed."""
        return frozenset(step for step, _ in list(self._waiting.values()))

    def begin(self, step: int, checkpoint: Path) -> None:
        """Have a checkpoint judged."""
        if step not in self.steps:
            self._waiting[self._task.remote(self._recipe, self._corpus, checkpoint)] = step, checkpoint

    def done(self) -> Iterator[Judgement]:
        """Judgements that have come.

        Raises:
            ray.exceptions.RayError: a task failed more often than workers may.
        """
        return self._take(num_wanted=len(self._waiting), timeout_s=0.0)

    def rest(self) -> Iterator[Judgement]:
        """All that are still to come. What has got no room by then is judged in this process.

        Raises:
            ray.exceptions.RayError: a task failed more often than workers may.
        """
        import ray

        while self._waiting:
            came = list(self._take(num_wanted=1, timeout_s=_NO_ROOM_S))
            yield from came
            if came:
                continue
            for reference, (step, checkpoint) in list(self._waiting.items()):
                logger.warning("no room to judge aside step=%d within %.0f s: judging it here", step, _NO_ROOM_S)
                ray.cancel(reference, force=True)
                if (judgement := _judge_here(self._recipe, self._corpus, checkpoint)) is not None:
                    yield judgement
                del self._waiting[reference]

    def _take(self, *, num_wanted: int, timeout_s: float) -> Iterator[Judgement]:
        import ray

        if not self._waiting:
            return
        ready, _ = ray.wait(list(self._waiting), num_returns=num_wanted, timeout=timeout_s)
        for reference in ready:
            judgement = ray.get(reference, timeout=60)
            if judgement is not None:
                yield judgement
            del self._waiting[reference]  # now that its grade is known: another thread removes what does not wait


def _judge_here(recipe: Recipe, corpus: Corpus, checkpoint: Path) -> Judgement | None:
    """In a process whose GPU holds all that training needs: if a second model does not fit, on the CPU."""
    try:
        return _judge_checkpoint(recipe, corpus, checkpoint)
    except torch.OutOfMemoryError:
        logger.warning("no room on the GPU for a second model: judging on the CPU")
    return _judge_checkpoint(recipe, corpus, checkpoint, device=torch.device("cpu"))


def _judge_checkpoint(
    recipe: Recipe, corpus: Corpus, checkpoint: Path, *, device: torch.device | None = None
) -> Judgement | None:
    """The task: it knows nothing of the run but its folder. Default: on what the workers train on."""
    # Ray shows all GPUs of a machine to a task that was given none.
    device = device or torch.device("cuda" if recipe.training.workers.use_gpu else "cpu")
    if device.type == "cpu":
        torch.set_num_threads(max(1, int(recipe.training.workers.cpus_per_worker)))
    loaded = load(checkpoint / "model", device=device)
    examiner = Examiner(recipe, corpus.reopen(), loaded)
    return examiner.judge(read_state(checkpoint).step, autocast=autocast_type(recipe.training.precision, device))
