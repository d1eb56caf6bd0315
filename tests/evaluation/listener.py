"""A transcriber that hears levels, and a command that evaluates with it: `python -m tests.evaluation.listener ...`.

A clip whose level is 0.25 is heard as `המספר הוא 25`.
"""

import argparse
import functools
import os
import signal
import time
import uuid
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from caspi.evaluation import evaluate
from caspi.inference.transcription import Transcription


class Listener:
    """Takes its time, leaves a file for each call, dies of one level and raises an error for another one."""

    def __init__(
        self, calls: Path, *, seconds: float = 0.0, deadly: int | None = None, impossible: int | None = None
    ) -> None:
        self._calls, self._seconds, self._deadly, self._impossible = calls, seconds, deadly, impossible

    def transcribe_batch(
        self, clips: Sequence[np.ndarray], *, languages: Sequence[str | None] | None = None
    ) -> list[Transcription]:
        (self._calls / uuid.uuid4().hex).touch()
        time.sleep(self._seconds)
        levels = [round(float(clip.mean()) * 100) for clip in clips]
        if self._deadly in levels:
            os.kill(os.getpid(), signal.SIGKILL)
        if self._impossible in levels:
            raise RuntimeError("Kernel size can't be greater than actual input size")
        return [
            Transcription(f"המספר הוא {level}", "Hebrew", len(clip) / 16000)
            for level, clip in zip(levels, clips, strict=True)
        ]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--corpus", type=Path)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--calls", type=Path)
    parser.add_argument("--seconds", type=float)
    args = parser.parse_args()
    factory = functools.partial(Listener, args.calls, seconds=args.seconds)
    evaluate("listener", args.corpus, output=args.output, factory=factory)


if __name__ == "__main__":
    main()
