"""A recording as it comes, cut at pauses into pieces that a model takes whole. Every sample is in one piece."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from caspi.audio import SAMPLE_RATE
from caspi.audio.speech import FRAME, Detector

# As Silero's own code has it: speech that began at a threshold goes on until the detector is so much less sure.
_HYSTERESIS = 0.15

# A single frame that looks like speech is a click.
_MIN_SPEECH = 2 * FRAME

# The detector needs some tenths of a second to be sure, which a recording of one word does not give it: of 361 such
# recordings it missed 65 by Silero's settings, and 4 by ones much like ours (0.2, a single frame). White noise stays
# under 0.16 and a tone under 0.1; over a recording of any length that would still be too much to send, so this is for
# short ones only.
_SHORT_S = 1.5
_SHORT_SHARE = 0.4  # of the threshold

# What a piece holds of the quiet behind its speech. The detector lags, so it is sure of the end a little late anyway.
_TAIL_S = 0.2

# Quiet at the edges that is not worth leaving out: a recording of one utterance is heard whole, as models are
# trained and evaluated.
_EDGE_S = 1.0

# Speech begins and ends within a frame of 32 ms, and Silero's own code widens what it found by this on either side. The
# detector notices an end up to 0.15 s late; where the sound falls by 40 dB before that, it is the better witness.
_MARGIN = SAMPLE_RATE * 30 // 1000
_LAG = SAMPLE_RATE * 200 // 1000
_STEP = SAMPLE_RATE * 10 // 1000
_FALL = 1e-4  # of the power

# Silence is handed out, and so forgotten, once there is so much of it.
_SILENCE_S = 10.0

# Unbroken speech is cut in the last part of what a piece may hold, where the detector is least sure over five frames.
_SEARCHED_SHARE = 0.4
_CUT_FRAMES = 5


@dataclass(frozen=True, slots=True)
class Cutting:
    """Where a recording is cut."""

    max_piece_s: float = 30.0
    """No piece is longer. In unbroken speech the cut is made at its quietest place."""

    threshold: float = 0.3
    """Speech begins where the detector is as sure of it as this, from 0 to 1."""

    pause_s: float = 0.6
    """A pause as long as this ends a piece."""

    padding_s: float = 0.2
    """What a piece holds of the quiet before its speech."""


@dataclass(frozen=True, slots=True, eq=False)
class Piece:
    """A stretch of a recording: speech with a little of the quiet around it, or no speech. Places are in samples."""

    start: int
    end: int
    samples: np.ndarray | None = None  # (end - start,) float32; None where nobody speaks
    speech_start: int = 0
    speech_end: int = 0

    @property
    def duration_s(self) -> float:
        """Length in seconds."""
        return (self.end - self.start) / SAMPLE_RATE


class Cutter:
    """Takes a recording block by block and hands out its pieces, in order and without a gap between them.

    Holds at most one piece, ten seconds of silence and a block, whatever comes.
    """

    def __init__(self, cutting: Cutting) -> None:
        self._detector = Detector()
        self._begins_at = cutting.threshold
        self._ends_below = max(cutting.threshold - _HYSTERESIS, cutting.threshold / 2)
        self._max_piece = round(cutting.max_piece_s * SAMPLE_RATE)
        self._pause = max(FRAME, round(cutting.pause_s * SAMPLE_RATE))
        self._padding = min(round(cutting.padding_s * SAMPLE_RATE), self._max_piece // 4)
        self._edge = min(round(_EDGE_S * SAMPLE_RATE), self._max_piece // 4)
        self._tail = min(round(_TAIL_S * SAMPLE_RATE), self._pause // 2)

        self._samples = np.zeros(0, np.float32)  # what is not handed out yet
        self._start = 0  # where that begins
        self._seen = 0  # where the next frame begins
        self._is_speaking = False
        self._surest = 0.0
        # Of the open piece: where its speech begins and ends, and how sure each frame between there and `_seen` was.
        self._speech_start: int | None = None
        self._speech_end = 0
        self._sureness: list[float] = []

    @property
    def end(self) -> int:
        """Where what was handed out ends."""
        return self._start

    def add(self, samples: np.ndarray) -> Iterator[Piece]:
        """Add (T,) float32 at 16 kHz; the pieces that are complete by now."""
        self._samples = np.concatenate([self._samples, samples])
        yield from self._look(self._detector.add(samples))

    def finish(self) -> Iterator[Piece]:
        """The pieces that the recording's end completes."""
        yield from self._look(self._detector.finish())
        total = self._start + len(self._samples)
        is_short = self._start == 0 and total <= min(_SHORT_S * SAMPLE_RATE, self._max_piece)
        if is_short and self._surest >= _SHORT_SHARE * self._begins_at:
            is_found = self._speech_start is not None
            yield self._take(
                total, speech_start=self._speech_start or 0, speech_end=self._speech_end if is_found else total
            )
        elif self._speech_start is not None:
            yield from self._close(end=total)
        if self._start < total:
            yield self._take(total)

    def _look(self, sureness: np.ndarray) -> Iterator[Piece]:
        """Go on by (F,) frames."""
        for sure in sureness.tolist():
            self._is_speaking = sure >= (self._ends_below if self._is_speaking else self._begins_at)
            self._surest = max(self._surest, sure)
            if self._is_speaking and self._speech_start is None:
                self._speech_start, self._sureness = self._seen, []
            self._seen += FRAME
            if self._is_speaking:
                self._speech_end = self._seen
            if self._speech_start is None:
                if self._seen - self._start > self._padding + _SILENCE_S * SAMPLE_RATE:
                    yield self._take(self._seen - self._padding)
                continue
            self._sureness.append(sure)
            if self._seen - self._speech_end >= self._pause:
                yield from self._close(end=self._speech_end + self._tail)
            elif self._seen - self._piece_start(self._speech_start) >= self._max_piece:
                yield from self._cut()

    def _piece_start(self, speech_start: int) -> int:
        start = max(self._start, speech_start - self._padding)
        return 0 if self._start == 0 and start <= self._edge else start

    def _close(self, *, end: int) -> Iterator[Piece]:
        """End the open piece behind its speech."""
        assert self._speech_start is not None, "asked for an open piece"
        speech_start, self._speech_start = self._speech_start, None
        if self._speech_end - speech_start >= _MIN_SPEECH:
            yield from self._hand_out(speech_start, self._speech_end, end)

    def _cut(self) -> Iterator[Piece]:
        """End the open piece inside its speech, and open the next one there."""
        assert self._speech_start is not None, "asked for an open piece"
        speech_start = self._speech_start
        sureness = np.asarray(self._sureness)
        first = min(int((1 - _SEARCHED_SHARE) * len(sureness)), len(sureness) - 1)
        window = min(_CUT_FRAMES, len(sureness) - first)
        means = np.convolve(sureness[first:], np.full(window, 1 / window), mode="valid")
        quietest = first + int(means.argmin()) + window // 2
        cut = speech_start + quietest * FRAME
        later = [number for number in range(quietest, len(sureness)) if sureness[number] >= self._ends_below]
        speech_end, self._speech_start = self._speech_end, None
        if later:
            self._speech_start = speech_start + later[0] * FRAME
            self._sureness = self._sureness[later[0] :]
        yield from self._hand_out(speech_start, min(speech_end, cut), cut)

    def _hand_out(self, speech_start: int, speech_end: int, end: int) -> Iterator[Piece]:
        """The silence before a piece, if there is any, and the piece."""
        start = self._piece_start(speech_start)
        if start > self._start:
            yield self._take(start)
        yield self._take(end, speech_start=speech_start, speech_end=speech_end)

    def _take(self, end: int, *, speech_start: int | None = None, speech_end: int = 0) -> Piece:
        start, length = self._start, min(end - self._start, len(self._samples))
        taken, self._samples = self._samples[:length], self._samples[length:]
        self._start = end = start + length
        if speech_start is None:
            return Piece(start, end)
        first, last = max(0, speech_start - _MARGIN - start), min(length, speech_end + _MARGIN - start)
        narrow_first, narrow_last = _narrow(taken[first:last])
        # A copy: the view would keep alive all that came with it.
        return Piece(start, end, taken.copy(), start + first + narrow_first, start + first + narrow_last)


def _narrow(samples: np.ndarray) -> tuple[int, int]:
    """Where the sound in (T,) samples begins and ends, at most `_LAG` from where they do."""
    steps = samples[: len(samples) // _STEP * _STEP].reshape(-1, _STEP)
    powers = np.einsum("st,st->s", steps, steps)
    loud = np.flatnonzero(powers > _FALL * powers.max(initial=0.0))
    if not len(loud):
        return 0, len(samples)
    first, last = int(loud[0]) * _STEP, int(loud[-1] + 1) * _STEP
    if len(samples) - last < _STEP:  # what is no whole step
        last = len(samples)
    return min(first, _LAG), max(last, len(samples) - _LAG)
