"""A transcriber that hears levels, and a command that evaluates with it: `python -m tests.evaluation.listener ...`.

A clip whose level is 0.25 is heard as `המספר הוא 25`.
"""

import argparse
import functools
import time
import uuid
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from caspi.evaluation import evaluate
from caspi.inference.transcription import Transcription


class Listener:
    """Takes its time, and leaves a file for each call."""

    def __init__(self, calls: Path, *, seconds: float = 0.0) -> None:
        self._calls, self._seconds = calls, seconds

    def transcribe_batch(
        self, clips: Sequence[np.ndarray], *, languages: Sequence[str | None] | None = None
    ) -> list[Transcription]:
        (self._calls / uuid.uuid4().hex).touch()
        time.sleep(self._seconds)
        return [
            Transcription(f"המספר הוא {round(float(clip.mean()) * 100)}", "Hebrew", len(clip) / 16000) for clip in clips
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
