"""Where recordings are cut, by the real detector and by one that a test decides."""

import itertools
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from caspi.audio import SAMPLE_RATE, nonspeech
from caspi.audio.speech import FRAME
from caspi.inference import cutting
from caspi.inference.cutting import Cutter, Cutting, Piece
from tests.speech import lay, speak


class Decided:
    """A detector that is as sure of speech in a frame as its first sample says."""

    def __init__(self) -> None:
        self._kept = np.zeros(0, np.float32)

    def add(self, samples: np.ndarray) -> np.ndarray:
        kept = np.concatenate([self._kept, samples])
        num_frames = len(kept) // FRAME
        self._kept = kept[num_frames * FRAME :]
        return kept[: num_frames * FRAME : FRAME]

    def finish(self) -> np.ndarray:
        return self._kept[:1]


def cut(samples: np.ndarray, how: Cutting | None = None, *, block: int = 5 * SAMPLE_RATE) -> Iterator[Piece]:
    cutter = Cutter(how or Cutting())
    for start in range(0, len(samples), block):
        yield from cutter.add(samples[start : start + block])
    yield from cutter.finish()
    assert cutter.end == len(samples)


def spoken_spans(pieces: Iterator[Piece]) -> list[tuple[float, float]]:
    spoken = [piece for piece in pieces if piece.samples is not None]
    return [(piece.speech_start / SAMPLE_RATE, piece.speech_end / SAMPLE_RATE) for piece in spoken]


# Runs of frames, each with how sure the detector is of them.
PATTERNS = st.lists(
    st.tuples(st.sampled_from([0.0, 0.1, 0.2, 0.35, 0.9]), st.integers(1, 150)), min_size=1, max_size=25
)


@settings(deadline=None)
@given(
    pattern=PATTERNS,
    rest=st.integers(0, FRAME - 1),
    block=st.sampled_from([700, 16_000, 200_000]),
    max_piece_s=st.sampled_from([1.0, 4.0, 30.0]),
    pause_s=st.sampled_from([0.1, 0.6, 3.0]),
    padding_s=st.sampled_from([0.0, 0.2, 2.0]),
)
def test_pieces_are_the_recording_whatever_is_said_in_it(
    pattern: list[tuple[float, int]], rest: int, block: int, max_piece_s: float, pause_s: float, padding_s: float
) -> None:
    sureness = np.concatenate([np.full(length, sure, np.float32) for sure, length in pattern])
    samples = np.repeat(sureness, FRAME)[: max(1, len(sureness) * FRAME - rest)]
    how = Cutting(max_piece_s=max_piece_s, pause_s=pause_s, padding_s=padding_s)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cutting, "Detector", Decided)
        pieces = list(cut(samples, how, block=block))

    assert pieces[0].start == 0 and pieces[-1].end == len(samples)
    assert all(before.end == after.start for before, after in itertools.pairwise(pieces))
    for piece in pieces:
        assert piece.end > piece.start
        if piece.samples is not None:
            np.testing.assert_array_equal(piece.samples, samples[piece.start : piece.end])
            assert piece.start <= piece.speech_start < piece.speech_end <= piece.end
            assert piece.duration_s <= max_piece_s + 1e-9

    heard = np.zeros(len(samples), bool)
    for piece in pieces:
        heard[piece.start : piece.end] = piece.samples is not None
    for place, (sure, _) in zip(np.cumsum([0, *(length for _, length in pattern)])[:-1], pattern, strict=True):
        start, end = place * FRAME, min(len(samples), (place + 1) * FRAME)
        if sure >= how.threshold and place + 1 < len(sureness) and sureness[place + 1] >= how.threshold:
            assert heard[start:end].all(), "speech was taken for silence"


def test_speech_is_found_where_it_was_laid_to_a_tenth_of_a_second() -> None:
    laid = [(1.0, 3.0), (4.0, 5.0), (6.0, 6.8), (9.0, 15.37), (20.0, 20.4)]
    found = spoken_spans(cut(lay(25, *laid)))
    np.testing.assert_allclose(found, laid, atol=0.1)


@pytest.mark.parametrize("duration_s", [0.1, 0.15, 0.3, 0.7, 1.49, 1.51, 2.0, 29.9])
def test_a_recording_that_is_all_speech_is_one_piece(duration_s: float) -> None:
    (piece,) = cut(speak(duration_s))
    assert piece.samples is not None
    assert len(piece.samples) == round(duration_s * SAMPLE_RATE)


@pytest.mark.parametrize("make", [nonspeech.silence, nonspeech.pink], ids=["silence", "pink noise"])
@pytest.mark.parametrize("duration_s", [0.1, 1.0, 5.0, 40.0])
def test_what_nobody_says_never_reaches_the_model(make, duration_s: float) -> None:
    sound = nonspeech.at_level(make(round(duration_s * SAMPLE_RATE), np.random.default_rng(0)), -30)
    assert spoken_spans(cut(sound)) == []


def test_unbroken_speech_is_cut_where_the_detector_is_least_sure() -> None:
    pieces = list(cut(speak(75), Cutting(max_piece_s=20)))
    assert all(12 <= piece.duration_s <= 20 for piece in pieces[:-1])
    assert all(piece.samples is not None for piece in pieces)


def test_an_utterance_is_heard_whole_as_it_was_in_training() -> None:
    (piece,) = cut(lay(6, (0.8, 5.5)))
    assert (piece.start, piece.end) == (0, 6 * SAMPLE_RATE)
    assert piece.speech_start / SAMPLE_RATE == pytest.approx(0.8, abs=0.1)
    assert piece.speech_end / SAMPLE_RATE == pytest.approx(5.5, abs=0.1)


def test_a_shorter_pause_cuts_more_often() -> None:
    words = lay(12, (1, 2), (2.4, 3.4), (3.8, 4.8))
    assert len(spoken_spans(cut(words))) == 1
    assert len(spoken_spans(cut(words, Cutting(pause_s=0.2)))) == 3


def test_a_higher_threshold_hears_less() -> None:
    quiet = lay(6, (2, 4)) + 0.05 * np.random.default_rng(1).normal(size=6 * SAMPLE_RATE).astype(np.float32)
    heard = [sum(end - start for start, end in spoken_spans(cut(quiet, Cutting(threshold=t)))) for t in (0.1, 0.95)]
    assert heard[0] > heard[1]


def test_what_is_held_does_not_grow() -> None:
    cutter = Cutter(Cutting(max_piece_s=10))
    block = np.concatenate([speak(40), np.zeros(40 * SAMPLE_RATE, np.float32)])
    held = []
    for _ in range(5):
        for _ in cutter.add(block):
            pass
        held.append(len(cutter._samples))
    assert max(held) <= 15 * SAMPLE_RATE
