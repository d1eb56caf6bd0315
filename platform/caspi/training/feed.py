"""From the plan to batches: a thread reads shards, decodes, augments and collates ahead of the training step.

Threads, not processes: soundfile, soxr and torch release the interpreter lock, and there is no shared memory to run
out of.
"""

import queue
import threading
from collections import OrderedDict
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from caspi import audio
from caspi.corpus import Corpus
from caspi.model import Batch, Prompter, collate, log_mel, num_audio_tokens
from caspi.recipe.sections import Augmentation
from caspi.training.augment import augment_samples, draw, mask_features

STEPS_AHEAD = 3


@dataclass(frozen=True, slots=True)
class TrainingRow:
    """What training reads of a row of a shard."""

    utterance_id: str
    encoded: bytes
    text: str


class ShardReader:
    """Utterances by their position in a split's index. Keeps the shards of the present window open."""

    def __init__(self, corpus: Corpus, split: str, *, max_open_shards: int = 8) -> None:
        index = corpus.index(split)
        self._corpus = corpus
        self._shards = index["shard"].to_pylist()
        self._rows = index["row"].to_numpy()
        self._max_open = max_open_shards
        self._open: OrderedDict[str, pa.Table] = OrderedDict()

    def read(self, position: int) -> TrainingRow:
        table, row = self._table(self._shards[position]), int(self._rows[position])
        return TrainingRow(*(table[column][row].as_py() for column in ("utterance_id", "audio", "text")))

    def _table(self, shard: str) -> pa.Table:
        if shard not in self._open:
            columns = ["utterance_id", "audio", "text"]
            self._open[shard] = pq.read_table(self._corpus.path / shard, columns=columns)
            if len(self._open) > self._max_open:
                self._open.popitem(last=False)
        self._open.move_to_end(shard)
        return self._open[shard]


@dataclass(frozen=True, slots=True)
class BatchMaker:
    """Positions in the index to a batch on the CPU."""

    reader: ShardReader
    prompter: Prompter
    language: str  # English name, as the model writes it
    augmentation: Augmentation
    seed: int

    def make(self, positions: np.ndarray, *, epoch: int) -> Batch:
        utterances = [self.reader.read(int(position)) for position in positions]
        randoms = [draw(self.seed, epoch, utterance.utterance_id) for utterance in utterances]
        clips = [
            augment_samples(
                audio.decode(utterance.encoded, source=utterance.utterance_id).samples, self.augmentation, random
            )
            for utterance, random in zip(utterances, randoms, strict=True)
        ]
        features = log_mel(clips)
        mask_features(features, [len(clip) for clip in clips], self.augmentation, randoms)
        examples = [
            self.prompter.example(utterance.text, num_audio_tokens=num_audio_tokens(len(clip)), language=self.language)
            for utterance, clip in zip(utterances, clips, strict=True)
        ]
        audio_s = sum(len(clip) for clip in clips) / audio.SAMPLE_RATE
        return collate(examples, features, pad_id=self.prompter.pad_id, audio_s=audio_s)


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
