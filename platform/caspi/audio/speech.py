"""Where somebody speaks: Silero's voice activity detector, from the model file that its package ships.

The package itself is not imported: it would import torch, a second and 300 MB in every worker. Of its models this is
the one that takes many frames at once (`silero_vad_16k_sequence.onnx`), with the same figures as the usual one and a
tenth of the calls' cost.
"""

from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from caspi.audio.decoding import SAMPLE_RATE

# Silero's own defaults, which its figures are published with.
_BEGINS_AT = 0.5  # probability
_ENDS_BELOW = 0.35
_MIN_SPEECH = SAMPLE_RATE * 250 // 1000  # all in samples
_MIN_SILENCE = SAMPLE_RATE * 100 // 1000
_PAD = SAMPLE_RATE * 30 // 1000

# What the model was trained on: frames of 32 ms, each with the end of the frame before it.
FRAME, _CONTEXT = 512, 64
_FRAMES_AT_ONCE = 128
_STATE_SHAPE = (1, 1, 128)


def find_speech(samples: np.ndarray) -> list[tuple[float, float]]:
    """The stretches with speech in 16 kHz mono samples, (num_samples,) float in [-1, 1]: (start_s, end_s) in order.

    Stretches under 250 ms are dropped, pauses under 100 ms belong to the speech, and 30 ms are added on either side.
    Empty for silence and for noise. The same samples give the same answer, to the bit on machines of one kind.
    """
    padded = []
    found = list(_stretches(_probabilities(samples), len(samples)))
    for place, (start, end) in enumerate(found):
        # Where two stretches are closer than both paddings, they meet in the middle.
        before = found[place - 1][1] if place else -2 * _PAD
        after = found[place + 1][0] if place + 1 < len(found) else len(samples) + 2 * _PAD
        start -= min(_PAD, (start - before) // 2)
        end += min(_PAD, (after - end) // 2)
        padded.append((max(0, start) / SAMPLE_RATE, min(len(samples), end) / SAMPLE_RATE))
    return padded


def _stretches(probabilities: np.ndarray, num_samples: int) -> Iterator[tuple[int, int]]:
    """Speech begins at one threshold and ends below a lower one, for longer than a short pause. In samples."""
    start, quiet_since = None, None
    for number, probability in enumerate(probabilities.tolist()):
        place = number * FRAME
        if probability >= _BEGINS_AT:
            start, quiet_since = (place if start is None else start), None
        elif probability < _ENDS_BELOW and start is not None:
            quiet_since = place if quiet_since is None else quiet_since
            if place - quiet_since >= _MIN_SILENCE:
                if quiet_since - start > _MIN_SPEECH:
                    yield start, quiet_since
                start, quiet_since = None, None
    if start is not None and num_samples - start > _MIN_SPEECH:
        yield start, num_samples


def _probabilities(samples: np.ndarray) -> np.ndarray:
    """(num_samples,) -> (F,): how likely each frame holds speech. The last frame is filled up with zeros."""
    detector = Detector()
    return np.concatenate([detector.add(samples), detector.finish()])


class Detector:
    """How likely each frame of `FRAME` samples holds speech, of a recording that comes block by block."""

    def __init__(self) -> None:
        self._hidden = self._cell = np.zeros(_STATE_SHAPE, np.float32)
        self._kept = np.zeros(_CONTEXT, np.float32)  # the end of the last frame, and what is no whole frame yet

    def add(self, samples: np.ndarray) -> np.ndarray:
        """(T,) float in [-1, 1] -> (F,): of the frames that are whole by now."""
        kept = np.concatenate([self._kept, samples], dtype=np.float32)
        num_frames = (len(kept) - _CONTEXT) // FRAME
        found = [np.zeros(0, np.float32)]
        for first in range(0, num_frames, _FRAMES_AT_ONCE):
            last = min(first + _FRAMES_AT_ONCE, num_frames)
            state = {"h": self._hidden, "c": self._cell}
            frames = _frames(kept[first * FRAME : last * FRAME + _CONTEXT])
            values, self._hidden, self._cell = _session().run(["speech_probs", "hn", "cn"], {"input": frames, **state})
            found.append(np.asarray(values).reshape(-1))
        self._kept = kept[num_frames * FRAME :].copy()
        return np.concatenate(found)

    def finish(self) -> np.ndarray:
        """Of the last frame, filled up with zeros; empty where the recording ended with a whole one."""
        return self.add(np.zeros(-(len(self._kept) - _CONTEXT) % FRAME, np.float32))


def _frames(padded: np.ndarray) -> np.ndarray:
    """(context + F * frame,) -> (F, context + frame): each frame begins with the end of the one before it."""
    windows = np.lib.stride_tricks.sliding_window_view(padded, _CONTEXT + FRAME)[::FRAME]
    return np.ascontiguousarray(windows)


@cache
def _session() -> Any:
    """One a process, loaded at the first need: it takes a tenth of a second."""
    import onnxruntime

    package = find_spec("silero_vad")
    if package is None or package.origin is None:
        raise ModuleNotFoundError("the package silero-vad is not installed, and with it the model that finds speech")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1  # the pipeline has a process for every core
    options.log_severity_level = 3
    model = Path(package.origin).parent / "data" / "silero_vad_16k_sequence.onnx"
    return onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
