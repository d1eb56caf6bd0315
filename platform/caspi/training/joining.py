"""Neighbours of one recording joined into long clips: which ones, and what they sound like."""

from collections.abc import Sequence

import numpy as np

from caspi.audio import SAMPLE_RATE
from caspi.audio.nonspeech import white
from caspi.recipe.augmentation import Joining
from caspi.training.items import MAX_JOINED, copy_of, is_silence, position_of, utterance_items
from caspi.training.lengths import LengthIndex, num_samples

_FRAME = SAMPLE_RATE * 30 // 1000  # samples: short enough to fit between two words


def join(items: np.ndarray, index: LengthIndex, settings: Joining, random: np.random.Generator) -> np.ndarray:
    """The items of a shard with neighbours joined: each utterance is in one item still.

    Every recording is cut into clips of random lengths, of which `settings.share` stay and the others fall apart.
    """
    silent = is_silence(items)
    utterances = items[~silent]
    utterances = utterances[np.lexsort((position_of(utterances), copy_of(utterances)))]
    positions, copies = position_of(utterances), copy_of(utterances)
    gaps_s = index.gaps_s[positions]
    follows = np.zeros(len(utterances), bool)
    follows[1:] = (np.diff(positions) == 1) & (np.diff(copies) == 0) & (gaps_s[1:] <= settings.max_gap_s)
    starts = np.array(
        _starts(index.durations_s[positions].tolist(), gaps_s.tolist(), follows.tolist(), settings, random)
    )
    counts = np.diff([*starts, len(utterances)])
    return np.concatenate([utterance_items(positions[starts], copies[starts], counts), items[silent]])


def _starts(
    durations_s: Sequence[float],
    gaps_s: Sequence[float],
    follows: Sequence[bool],
    settings: Joining,
    random: np.random.Generator,
) -> list[int]:
    """Where clips begin."""
    starts: list[int] = []
    start = 0
    while start < len(durations_s):
        target_s, is_joined = random.uniform(*settings.target_s), random.random() < settings.share
        stop, length_s = start + 1, durations_s[start]
        while stop < min(len(durations_s), start + MAX_JOINED) and follows[stop]:
            length_s += gaps_s[stop] + durations_s[stop]
            if length_s > target_s:
                break
            stop += 1
        starts += [start] if is_joined else range(start, stop)
        start = stop
    return starts


def joined_samples(clips: Sequence[np.ndarray], gaps_s: Sequence[float], random: np.random.Generator) -> np.ndarray:
    """Clips one after the other, (num_samples,) float32, with pauses as quiet as the quietest moment before them.

    Digital silence would tell the model where somebody has cut.

    Args:
        gaps_s: the pause before each clip but the first.
    """
    pieces = [clips[0]]
    for before, clip, length in zip(clips, clips[1:], num_samples(np.array(gaps_s)).tolist(), strict=False):
        pause = white(length, random) * _floor(before)
        pieces += [pause.astype(np.float32), clip]
    return np.concatenate(pieces)


def _floor(samples: np.ndarray) -> float:
    """RMS of the quietest 30 ms; 0 of less."""
    frames = samples[: len(samples) // _FRAME * _FRAME].reshape(-1, _FRAME)
    return float(np.sqrt(np.square(frames, dtype=np.float64).mean(axis=1).min(initial=np.inf))) if len(frames) else 0.0
