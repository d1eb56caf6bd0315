"""Judging the model while it learns: WER on the validation split, and the best model kept as `RUN/model`."""

import shutil
from dataclasses import dataclass
from pathlib import Path

import pyarrow.compute as pc
import torch
import torch.distributed as dist

from caspi import audio, evaluation
from caspi.corpus import Corpus
from caspi.evaluation import Score
from caspi.inference.transcriber import Transcriber
from caspi.model import Loaded
from caspi.recipe import Recipe
from caspi.training.reading import ShardReader


@dataclass(frozen=True)
class Examiner:
    """Transcribes the same part of the validation split each time, shared by all ranks."""

    recipe: Recipe
    corpus: Corpus
    loaded: Loaded
    rank: int
    world_size: int

    def score(self, *, autocast: torch.dtype | None) -> Score | None:
        """The model's errors, the same on every rank. None: the corpus has no validation split."""
        size = pc.sum(pc.equal(self.corpus.utterances["split"], "validation")).as_py() or 0
        # Shards are shuffled, so the first utterances are a fair sample.
        size = min(size, self.recipe.training.validation.max_utterances)
        if not size:
            return None
        mine = self._transcribe(range(self.rank, size, self.world_size), autocast)
        gathered = [mine] * self.world_size
        if self.world_size > 1:
            dist.all_gather_object(gathered, mine)
        references, hypotheses = zip(*(pair for part in gathered for pair in part), strict=True)
        return evaluation.score(references, hypotheses, language=self.recipe.data.language)

    def _transcribe(self, positions: range, autocast: torch.dtype | None) -> list[tuple[str, str]]:
        """(reference, hypothesis) of each position."""
        reader, language = ShardReader.of_split(self.corpus, "validation"), self.recipe.data.language
        utterances = [reader.read(position) for position in positions]
        clips = [audio.decode(utterance.encoded, source=utterance.utterance_id).samples for utterance in utterances]
        self.loaded.model.eval()
        transcriber = Transcriber(self.loaded, limits=self.recipe.inference)
        device = next(self.loaded.model.parameters()).device
        with torch.autocast(device.type, dtype=autocast, enabled=autocast is not None):
            answers = transcriber.transcribe_batch(clips, languages=[language] * len(clips))
        self.loaded.model.train()
        return [(utterance.text, answer.text) for utterance, answer in zip(utterances, answers, strict=True)]


def keep(loaded: Loaded, folder: Path) -> None:
    """Replace `folder` by the present model; whoever looks sees the old or the new one, whole."""
    fresh, old = folder.with_name(f".{folder.name}.new"), folder.with_name(f".{folder.name}.old")
    for leftover in (fresh, old):
        shutil.rmtree(leftover, ignore_errors=True)
    loaded.save(fresh)
    if folder.exists():
        folder.rename(old)
    fresh.rename(folder)
    shutil.rmtree(old, ignore_errors=True)
