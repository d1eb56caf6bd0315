"""Recorded speech to a corpus that training can read: sources, preparation, shards, accounting."""

from caspi.corpus.format import Corpus, Utterance
from caspi.corpus.pipeline import Progress, prepare

__all__ = ["Corpus", "Progress", "Utterance", "prepare"]
