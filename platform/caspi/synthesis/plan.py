"""What a corpus will hold, before a word is spoken: a pure function of the number of utterances and the seed."""

import random
from collections.abc import Iterator
from dataclasses import dataclass

from caspi.errors import RequestError
from caspi.synthesis.grammar import Grammar, Sentence
from caspi.synthesis.voices import TEST_VOICES, TRAIN_VOICES, Voice

CROWD_TRANSCRIBE = "crowd-transcribe-v5"
RECITAL = "crowd-recital-whisper-training"

MIN_UTTERANCES = 40  # fewer do not fill both layouts and a test split
TEST_SHARE = 0.12
RECITAL_SHARE = 0.25
BAD_SHARE = 0.03
CLIPS_PER_PART = 256  # of crowd-transcribe, in one shard
ENTRIES_PER_PART = 8  # of the recital, in one shard
SENTENCES_PER_ENTRY = 24  # two or three slices of 30 s

# What is wrong with a bad clip, and under which reason `caspi prepare` should refuse it.
CLIP_FLAWS: dict[str, str] = {
    "garbage": "undecodable_audio",
    "no_samples": "empty_audio",
    "no_text": "empty_text",
    "truncated": "truncated_audio",
    "noisy": "noisy",
    "only_marks": "empty_text",
    "far_too_short": "too_short",
    "skipped": "skipped",
    "foreign_language": "foreign_language",
    "too_much_text": "too_many_characters",
    "unintelligible": "unintelligible",
    "multiple_speakers": "multiple_speakers",
}
SLICE_FLAWS: dict[str, str] = {"garbage": "undecodable_audio", "no_text": "empty_text"}

UNTRANSCRIBED = "untranscribed"
"""Not a bad row: a sentence that is heard in a slice before its first time token, and not written there."""


@dataclass(frozen=True, slots=True)
class Clip:
    """One row of crowd-transcribe: one sentence."""

    key: str
    sentence: Sentence
    voice: Voice
    flaw: str | None


@dataclass(frozen=True, slots=True)
class Entry:
    """One recording of the recital: sentences read by one voice, stored as slices of up to 30 s."""

    key: str
    sentences: tuple[Sentence, ...]
    voice: Voice
    flaw: str | None


@dataclass(frozen=True, slots=True)
class Part:
    """What one process speaks and writes: one parquet file."""

    dataset: str
    split: str
    index: int
    num_parts: int
    clips: tuple[Clip, ...] = ()
    entries: tuple[Entry, ...] = ()

    @property
    def file(self) -> str:
        """Relative to the output folder, named as the hub names shards."""
        return f"{self.dataset}/data/{self.split}-{self.index:05d}-of-{self.num_parts:05d}.parquet"


def plan(num_utterances: int, seed: int) -> list[Part]:
    """The parts of a corpus, in order. All sentences differ; test voices speak nowhere in training.

    Raises:
        RequestError: fewer than `MIN_UTTERANCES`, or more than the grammar can tell apart.
    """
    if num_utterances < MIN_UTTERANCES:
        raise RequestError(f"{num_utterances} utterances do not make a corpus; ask for at least {MIN_UTTERANCES}")
    rng = random.Random(f"{seed}/plan")
    grammar = Grammar(rng)
    num_test = round(num_utterances * TEST_SHARE)
    num_recital = round(num_utterances * RECITAL_SHARE)
    num_train = num_utterances - num_test - num_recital
    return [
        *_clip_parts("train", _clips(num_train, TRAIN_VOICES, grammar, rng)),
        *_clip_parts("test", _clips(num_test, TEST_VOICES, grammar, rng)),
        *_entry_parts(_entries(num_recital, grammar, rng)),
    ]


def _clips(num_clips: int, voices: tuple[Voice, ...], grammar: Grammar, rng: random.Random) -> list[Clip]:
    flaws: list[str | None] = [None] * num_clips
    num_bad = max(1, round(num_clips * BAD_SHARE))
    kinds = list(CLIP_FLAWS)
    for number, position in enumerate(rng.sample(range(num_clips), num_bad)):
        flaws[position] = kinds[number % len(kinds)]
    speakers = _take_turns(voices, rng)
    return [Clip(_uuid(rng), grammar.sentence(), next(speakers), flaw) for flaw in flaws]


def _entries(num_sentences: int, grammar: Grammar, rng: random.Random) -> list[Entry]:
    """Whole readings, and after them one bad reading of a single sentence for each flaw."""
    speakers = _take_turns(TRAIN_VOICES, rng)
    num_whole = num_sentences - len(SLICE_FLAWS)
    lengths = [min(SENTENCES_PER_ENTRY, num_whole - start) for start in range(0, num_whole, SENTENCES_PER_ENTRY)]
    readings: list[tuple[int, str | None]] = [(length, None) for length in lengths]
    readings += [(1, flaw) for flaw in SLICE_FLAWS]
    return [
        Entry(
            # Ids of the recital are opaque words without an extension.
            key=f"recital{number:04d}{rng.getrandbits(32):08x}",
            sentences=tuple(grammar.sentence() for _ in range(length)),
            voice=next(speakers),
            flaw=flaw,
        )
        for number, (length, flaw) in enumerate(readings)
    ]


def _take_turns(voices: tuple[Voice, ...], rng: random.Random) -> Iterator[Voice]:
    """Every voice once in a random order, then again in another: no voice is heard much more than another."""
    while True:
        yield from rng.sample(voices, len(voices))


def _uuid(rng: random.Random) -> str:
    digits = f"{rng.getrandbits(128):032x}"
    return "-".join((digits[:8], digits[8:12], "4" + digits[13:16], "a" + digits[17:20], digits[20:]))


def _clip_parts(split: str, clips: list[Clip]) -> list[Part]:
    groups = [tuple(clips[start : start + CLIPS_PER_PART]) for start in range(0, len(clips), CLIPS_PER_PART)]
    return [Part(CROWD_TRANSCRIBE, split, index, len(groups), clips=group) for index, group in enumerate(groups)]


def _entry_parts(entries: list[Entry]) -> list[Part]:
    groups = [tuple(entries[start : start + ENTRIES_PER_PART]) for start in range(0, len(entries), ENTRIES_PER_PART)]
    return [Part(RECITAL, "train", index, len(groups), entries=group) for index, group in enumerate(groups)]
