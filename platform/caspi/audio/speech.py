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
_FRAME, _CONTEXT = 512, 64
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
        place = number * _FRAME
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
    num_frames = -(-len(samples) // _FRAME)
    padded = np.zeros(_CONTEXT + num_frames * _FRAME, np.float32)
    padded[_CONTEXT : _CONTEXT + len(samples)] = samples
    hidden = cell = np.zeros(_STATE_SHAPE, np.float32)
    found = [np.zeros(0, np.float32)]
    for first in range(0, num_frames, _FRAMES_AT_ONCE):
        block = _frames(padded[first * _FRAME : (first + _FRAMES_AT_ONCE) * _FRAME + _CONTEXT])
        values, hidden, cell = _session().run(["speech_probs", "hn", "cn"], {"input": block, "h": hidden, "c": cell})
        found.append(np.asarray(values).reshape(-1))
    return np.concatenate(found)


def _frames(padded: np.ndarray) -> np.ndarray:
    """(context + F * frame,) -> (F, context + frame): each frame begins with the end of the one before it."""
    windows = np.lib.stride_tricks.sliding_window_view(padded, _CONTEXT + _FRAME)[::_FRAME]
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
