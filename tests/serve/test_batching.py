"""How waiting clips become forward passes."""

import asyncio
import threading
import time
from collections.abc import Sequence

import numpy as np
import pytest

from caspi.inference.transcription import Transcription
from serve.batching import Batcher, Clip


class Recorder:
    """Remembers the durations of each batch, and takes `seconds` for it."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.batches: list[list[float]] = []
        self._seconds = seconds

    def __call__(self, clips: Sequence[Clip]) -> list[Transcription]:
        assert threading.current_thread() is not threading.main_thread()
        self.batches.append([clip.duration_s for clip in clips])
        time.sleep(self._seconds)
        if any(clip.prompt == "poison" for clip in clips):
            raise ValueError("poison")
        return [Transcription(str(clip.duration_s), None, clip.duration_s) for clip in clips]


def clip(duration_s: float, prompt: str = "") -> Clip:
    return Clip(np.zeros(1, np.float32), duration_s, prompt=prompt)


def run(recorder: Recorder, durations: Sequence[float], *, max_batch_s: float, wait_s: float = 0.01) -> list[str]:
    async def submit_all() -> list[str]:
        batcher = Batcher(recorder, max_batch_s=max_batch_s, wait_s=wait_s)
        answers = await asyncio.gather(*(batcher.submit(clip(duration)) for duration in durations))
        return [answer.text for answer in answers]

    return asyncio.run(submit_all())


def test_clips_that_wait_together_go_together_shortest_first() -> None:
    recorder = Recorder()
    assert run(recorder, [3.0, 1.0, 2.0], max_batch_s=100) == ["3.0", "1.0", "2.0"]
    assert recorder.batches == [[1.0, 2.0, 3.0]]


def test_a_batch_is_bounded_by_its_padded_seconds() -> None:
    recorder = Recorder()
    run(recorder, [1.0, 10.0, 1.0], max_batch_s=20)
    assert recorder.batches == [[1.0, 10.0], [1.0]]  # three rows of 10 s would be 30


def test_the_oldest_clip_is_always_in_the_next_batch() -> None:
    recorder = Recorder()
    run(recorder, [30.0, 1.0, 1.0, 1.0], max_batch_s=20)
    assert recorder.batches == [[30.0], [1.0, 1.0, 1.0]]


def test_what_arrives_behind_a_busy_model_becomes_one_batch() -> None:
    recorder = Recorder(seconds=0.2)

    async def trickle() -> None:
        batcher = Batcher(recorder, max_batch_s=100, wait_s=0.0)
        requests = []
        for _ in range(8):
            requests.append(asyncio.create_task(batcher.submit(clip(1.0))))
            await asyncio.sleep(0.02)
        await asyncio.gather(*requests)

    asyncio.run(trickle())
    assert [len(batch) for batch in recorder.batches] == [1, 7]


def test_a_clip_that_nobody_waits_for_never_reaches_the_model() -> None:
    recorder = Recorder(seconds=0.1)

    async def give_up() -> None:
        batcher = Batcher(recorder, max_batch_s=100, wait_s=0.0)
        first = asyncio.create_task(batcher.submit(clip(1.0)))
        await asyncio.sleep(0.02)
        second, third = (asyncio.create_task(batcher.submit(clip(duration))) for duration in (2.0, 3.0))
        await asyncio.sleep(0.02)
        second.cancel()
        await asyncio.gather(first, third)

    asyncio.run(give_up())
    assert recorder.batches == [[1.0], [3.0]]


def test_one_bad_clip_does_not_fail_its_neighbours() -> None:
    async def submit_all() -> list[Transcription | BaseException]:
        batcher = Batcher(Recorder(), max_batch_s=100, wait_s=0.01)
        requests = [batcher.submit(clip(1.0)), batcher.submit(clip(2.0, "poison")), batcher.submit(clip(3.0))]
        return await asyncio.gather(*requests, return_exceptions=True)

    first, second, third = asyncio.run(submit_all())
    assert isinstance(first, Transcription) and isinstance(third, Transcription)
    assert isinstance(second, ValueError)


def test_a_transcriber_that_loses_an_answer_is_an_error() -> None:
    async def submit() -> None:
        batcher = Batcher(lambda clips: [], max_batch_s=100, wait_s=0.0)
        await batcher.submit(clip(1.0))

    with pytest.raises(RuntimeError, match="0 of 1"):
        asyncio.run(submit())
