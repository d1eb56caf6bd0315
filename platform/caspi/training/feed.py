"""From the plan to batches: a thread reads shards, decodes, augments and collates ahead of the training step.

Threads, not processes: soundfile, soxr and torch release the interpreter lock, and there is no shared memory to run
out of.
"""

import queue
import threading
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np

from caspi import audio
from caspi.errors import AudioError, TrainingError
from caspi.model import Batch, Prompter, collate, log_mel, num_audio_tokens
from caspi.model.prompt import NO_SPEECH
from caspi.recipe.augmentation import Augmentation
from caspi.text import language_name
from caspi.training.augment import augment_samples, mask_features
from caspi.training.context import ContextMaker, Vocabulary
from caspi.training.draws import draw
from caspi.training.items import copy_of, count_of, is_silence, position_of, silence_number, silence_shard
from caspi.training.joining import joined_samples
from caspi.training.reading import ShardReader, TrainingRow
from caspi.training.silence import make_silence

STEPS_AHEAD = 3


@dataclass(frozen=True, slots=True)
class _Clip:
    """One item of a plan, ready for the model."""

    samples: np.ndarray  # (num_samples,) float32, augmented
    text: str
    language: str  # English name, as the model writes it
    context: str
    random: np.random.Generator  # for what else is done to it


@dataclass(frozen=True)
class BatchMaker:
    """Items of a plan to a batch on the CPU."""

    reader: ShardReader
    prompter: Prompter
    augmentation: Augmentation
    context: ContextMaker
    seed: int

    def make(self, items: np.ndarray, *, epoch: int) -> Batch:
        """A batch with one row for each item.

        Raises:
            TrainingError: a shard, or the audio in it, is damaged.
        """
        clips = [
            self._silence(item, epoch) if is_silence(item) else self._speech(item, epoch) for item in map(int, items)
        ]
        features = log_mel([clip.samples for clip in clips])
        mask_features(
            features, [len(clip.samples) for clip in clips], self.augmentation, [clip.random for clip in clips]
        )
        examples = [
            self.prompter.example(
                clip.text,
                num_audio_tokens=num_audio_tokens(len(clip.samples)),
                language=clip.language,
                context=clip.context,
            )
            for clip in clips
        ]
        audio_s = sum(len(clip.samples) for clip in clips) / audio.SAMPLE_RATE
        return collate(examples, features, pad_id=self.prompter.pad_id, audio_s=audio_s)

    def _speech(self, item: int, epoch: int) -> _Clip:
        position, copy, count = position_of(item), copy_of(item), count_of(item)
        rows, clips = zip(*(self._decoded(position + place) for place in range(count)), strict=True)
        first, shard = rows[0], self.reader.shard_of(position)
        text = " ".join(row.text for row in rows)
        random = draw(self.seed, epoch, first.utterance_id, copy)
        samples = augment_samples(
            joined_samples(clips, self.reader.gaps_s(position, count), random),
            self.augmentation,
            random,
            lambda random: self._decoded(self.reader.draw(shard, random))[1],
        )
        context = self.context.make(
            text,
            first.previous_text,
            self._vocabulary(shard),
            draw(self.seed, epoch, f"context of {first.utterance_id}", copy),
        )
        return _Clip(samples, text, language_name(first.language), context, random)

    def _decoded(self, position: int) -> tuple[TrainingRow, np.ndarray]:
        row = self.reader.read(position)
        try:
            return row, audio.decode(row.encoded, source=row.utterance_id).samples
        except AudioError as error:
            shard = self.reader.path_of(position)
            raise TrainingError(f"{shard}: damaged audio: {error}; prepare the corpus again") from error

    def _silence(self, item: int, epoch: int) -> _Clip:
        """With a context as often as speech has one: terms that nobody says must not be written either."""
        number = silence_number(item)
        context = self.context.make(
            "", None, self._vocabulary(silence_shard(item)), draw(self.seed, epoch, "context of silence", number)
        )
        samples = make_silence(number, seed=self.seed, epoch=epoch)
        return _Clip(samples, "", NO_SPEECH, context, draw(self.seed, epoch, "masks of silence", number))

    @cached_property
    def _vocabulary(self) -> Callable[[int], Vocabulary]:
        """The terms of a shard; of no shard where contexts are not asked for."""
        return lru_cache(maxsize=16)(
            lambda shard: Vocabulary.of(self.reader.texts(shard) if self.context.settings.share else ())
        )


def ahead(produce: Callable[[], Iterator[Any]]) -> Generator[Any, None, None]:
    """Run a generator in a thread, a few items ahead. Its exception is raised here, at the item it belongs to."""
    items: queue.Queue[Any] = queue.Queue(maxsize=STEPS_AHEAD)
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
