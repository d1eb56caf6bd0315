"""From the plan to batches, ahead of the training step: one thread reads shards, several decode and augment.

Threads, not processes: soundfile, soxr and numpy release the interpreter lock, and there is no shared memory to run
out of. What each does to an utterance follows from that utterance alone, and results are taken in the plan's order: it
makes no difference which thread is done first. Log-mel spectrograms are made later, where the model is.
"""

import queue
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from typing import Any

import numpy as np
import torch

from caspi import audio
from caspi.errors import AudioError, TrainingError
from caspi.model import Batch, Example, Prompter, collate, num_audio_tokens
from caspi.model.features import Sound
from caspi.model.prompt import NO_SPEECH
from caspi.recipe.augmentation import Augmentation
from caspi.recipe.sections import Collation
from caspi.text import language_name
from caspi.training.augment import augment_samples, draw_masks
from caspi.training.context import ContextMaker, Vocabulary
from caspi.training.draws import draw
from caspi.training.items import copy_of, count_of, is_silence, position_of, silence_number, silence_shard
from caspi.training.joining import joined_samples
from caspi.training.reading import ShardReader, TrainingRow
from caspi.training.silence import make_silence

# Shares that are finished and wait, and audio that is decoded or waits to be: 64 kB a second.
_SHARES_AHEAD = 2
_AHEAD_S = 600.0


@dataclass(frozen=True, slots=True)
class Planned:
    """What one rank will compute of a step."""

    epoch: int
    groups: Sequence[np.ndarray]  # items of each micro-batch
    audio_s: float
    idle: Sequence[np.ndarray] = ()  # groups that count for nothing: other ranks have so many more


@dataclass(frozen=True, slots=True)
class Share:
    """What one rank computes of a step, ready for it."""

    items: np.ndarray  # of the plan: utterances, their copies, silences
    batches: list[Batch]
    idle: list[Batch]


@dataclass(frozen=True, slots=True)
class _Clip:
    """One item of a plan, ready for the model."""

    samples: np.ndarray  # (num_samples,) float32, augmented
    example: Example
    bands: np.ndarray  # what is hidden of it, see `draw_masks`
    spans: np.ndarray


_Begun = list[list[Future[_Clip]]]


@dataclass(frozen=True)
class BatchMaker:
    """Items of a plan to batches on the CPU."""

    reader: ShardReader
    prompter: Prompter
    augmentation: Augmentation
    context: ContextMaker
    seed: int
    collation: Collation = "bucketed"

    def make(self, items: np.ndarray, *, epoch: int) -> Batch:
        """A batch of these items.

        Raises:
            TrainingError: a shard, or the audio in it, is damaged.
        """
        return self._join([self._read(item, epoch)() for item in map(int, items)])

    def shares(self, planned: Iterable[Planned], *, num_threads: int, is_pinned: bool = False) -> Iterator[Share]:
        """Each share in its turn. Those behind it are being made meanwhile, of as much audio as memory is meant for.

        Args:
            is_pinned: into memory that a GPU copies from by itself.

        Raises:
            TrainingError: a shard, or the audio in it, is damaged; after all shares that come before.
        """
        threads = ThreadPoolExecutor(num_threads, "feed-decode")
        begun: deque[tuple[Planned, _Begun]] = deque()
        problem = None
        try:
            for each in planned:
                try:
                    groups = (*each.groups, *each.idle)
                    begun.append((each, [self._begin(group, each.epoch, threads) for group in groups]))
                except TrainingError as error:
                    problem = error
                    break
                while len(begun) > 1 and sum(share.audio_s for share, _ in begun) > _AHEAD_S:
                    yield self._finish(*begun.popleft(), is_pinned)
            while begun:
                yield self._finish(*begun.popleft(), is_pinned)
            if problem is not None:
                raise problem
        finally:
            threads.shutdown(cancel_futures=True)

    def _begin(self, items: np.ndarray, epoch: int, threads: ThreadPoolExecutor) -> list["Future[_Clip]"]:
        return [threads.submit(self._read(item, epoch)) for item in map(int, items)]

    def _finish(self, planned: Planned, groups: _Begun, is_pinned: bool) -> Share:
        batches = [self._join([clip.result() for clip in group]) for group in groups]
        if is_pinned:
            batches = [batch.map(torch.Tensor.pin_memory) for batch in batches]
        num_groups = len(planned.groups)
        items = np.concatenate([*planned.groups, np.zeros(0, np.int64)])
        return Share(items, batches[:num_groups], batches[num_groups:])

    def _join(self, clips: Sequence[_Clip]) -> Batch:
        sound = Sound.of(
            [clip.samples for clip in clips],
            bands=np.stack([clip.bands for clip in clips]),
            spans=np.stack([clip.spans for clip in clips]),
        )
        examples = [clip.example for clip in clips]
        return collate(examples, sound, pad_id=self.prompter.pad_id, collation=self.collation)

    def _read(self, item: int, epoch: int) -> Callable[[], _Clip]:
        """Read what an item is made from. What remains may be done in any thread."""
        if is_silence(item):
            return partial(self._silence, silence_number(item), epoch, self._vocabulary(silence_shard(item)))
        position = position_of(item)
        rows = [self.reader.read(position + place) for place in range(count_of(item))]
        return partial(self._speech, item, rows, epoch, self._vocabulary(self.reader.shard_of(position)))

    def _speech(self, item: int, rows: Sequence[TrainingRow], epoch: int, vocabulary: Vocabulary) -> _Clip:
        position, copy, first = position_of(item), copy_of(item), rows[0]
        text = " ".join(row.text for row in rows)
        random = draw(self.seed, epoch, first.utterance_id, copy)
        clips = [self._decoded(row, position) for row in rows]
        samples = augment_samples(
            joined_samples(clips, self.reader.gaps_s(position, len(rows)), random),
            self.augmentation,
            random,
            partial(self._other_speech, self.reader.shard_of(position)),
        )
        context = self.context.make(
            text, first.previous_text, vocabulary, draw(self.seed, epoch, f"context of {first.utterance_id}", copy)
        )
        return self._clip(samples, text, language_name(first.language), context, random)

    def _other_speech(self, shard: int, random: np.random.Generator) -> np.ndarray:
        """Some utterance of a shard."""
        position = self.reader.draw(shard, random)
        return self._decoded(self.reader.read(position), position)

    def _decoded(self, row: TrainingRow, position: int) -> np.ndarray:
        try:
            return audio.decode(row.encoded, source=row.utterance_id).samples
        except AudioError as error:
            shard = self.reader.place_of(position)
            raise TrainingError(f"{shard}: damaged audio: {error}; prepare the corpus again") from error

    def _silence(self, number: int, epoch: int, vocabulary: Vocabulary) -> _Clip:
        """With a context as often as speech has one: terms that nobody says must not be written either."""
        context = self.context.make("", None, vocabulary, draw(self.seed, epoch, "context of silence", number))
        samples = make_silence(number, seed=self.seed, epoch=epoch)
        return self._clip(samples, "", NO_SPEECH, context, draw(self.seed, epoch, "masks of silence", number))

    def _clip(self, samples: np.ndarray, text: str, language: str, context: str, random: np.random.Generator) -> _Clip:
        """`language`: its English name, as the model writes it."""
        heard = num_audio_tokens(len(samples))
        example = self.prompter.example(text, num_audio_tokens=heard, language=language, context=context)
        return _Clip(samples, example, *draw_masks(len(samples), self.augmentation, random))

    @cached_property
    def _vocabulary(self) -> Callable[[int], Vocabulary]:
        """The terms of a shard; of no shard where contexts are not asked for."""
        return lru_cache(maxsize=16)(
            lambda shard: Vocabulary.of(self.reader.texts(shard) if self.context.settings.share else ())
        )


def ahead(produce: Callable[[], Iterator[Any]]) -> Generator[Any, None, None]:
    """Run a generator in a thread, a few items ahead. Its exception is raised here, at the item it belongs to."""
    items: queue.Queue[Any] = queue.Queue(maxsize=_SHARES_AHEAD)
    stopped = threading.Event()
    end = object()

    def put(item: Any) -> bool:
        while not stopped.is_set():
            try:
                items.put(item, timeout=0.2)
                return True
            except queue.Full:
                continue
        return False

    def work() -> None:
        try:
            for item in produce():
                if not put((item, None)):
                    return
            put((end, None))
        except BaseException as error:  # handed over, and raised in the training thread
            put((end, error))

    thread = threading.Thread(target=work, name="feed", daemon=True)
    thread.start()
    try:
        while True:
            item, error = items.get()
            if error is not None:
                raise error
            if item is end:
                return
            yield item
    finally:
        stopped.set()
        thread.join()
