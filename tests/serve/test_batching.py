"""Which waiting clips start when, who is dropped, and whose fault a failure is."""

import asyncio
import threading
import time
from collections.abc import Collection, Sequence
from itertools import count

import numpy as np
import pytest

from caspi.errors import RequestError
from caspi.inference.engine import BatchEngine, Clip
from caspi.inference.transcription import Transcription
from serve.batching import Answer, Batcher


class Steps:
    """An engine that decodes a clip of `n` seconds in `n` steps, with room for `room_s` seconds, padding left out.

    While `go` is not set it hangs in its step. Prompts make it fail: `unknown` as it starts, `poison` in a step,
    `wedged` in that and in every one after it.
    """

    def __init__(self, *, room_s: float = 100, step_s: float = 0.01) -> None:
        self.log: list[str] = []
        self.threads: set[int] = set()
        self.go = threading.Event()
        self.go.set()
        self._room_s = room_s
        self._step_s = step_s
        self._left: dict[int, list] = {}
        self._numbers = count()
        self._is_wedged = False

    @property
    def fill(self) -> float:
        return sum(clip.duration_s for clip, _ in self._left.values()) / self._room_s

    def fits(self, clips: Sequence[Clip]) -> bool:
        if not self._left and len(clips) == 1:
            return True
        return self.fill + sum(clip.duration_s for clip in clips) / self._room_s <= 1

    def start(self, clips: Sequence[Clip]) -> list[int]:
        if any(clip.prompt == "unknown" for clip in clips):
            raise RequestError("unknown")
        self.log.append("start " + " ".join(f"{clip.duration_s:g}" for clip in clips))
        numbers = [next(self._numbers) for _ in clips]
        self._left |= {number: [clip, int(clip.duration_s)] for number, clip in zip(numbers, clips, strict=True)}
        return numbers

    def step(self) -> list[tuple[int, Transcription]]:
        self.threads.add(threading.get_ident())
        time.sleep(self._step_s)
        assert self.go.wait(30)
        prompts = {clip.prompt for clip, _ in self._left.values()}
        self._is_wedged |= "wedged" in prompts
        if self._is_wedged or "poison" in prompts:
            raise ValueError("poison")
        for left in self._left.values():
            left[1] -= 1
        done = [number for number, (_, steps) in self._left.items() if steps <= 0]
        clips = [(number, self._left.pop(number)[0]) for number in done]
        self.log += [f"end {clip.duration_s:g}" for _, clip in clips]
        return [(number, Transcription(f"{clip.duration_s:g}", None, clip.duration_s)) for number, clip in clips]

    def drop(self, numbers: Collection[int]) -> None:
        for number in numbers:
            clip, _ = self._left.pop(number, (None, 0))
            self.log += [f"drop {clip.duration_s:g}"] if clip is not None else []


def clip(duration_s: float, prompt: str = "") -> Clip:
    return Clip(np.zeros(1, np.float32), duration_s, prompt=prompt)


def submit_all(engine: Steps, *clips: Clip, wait_s: float = 0.01) -> list[Answer | BaseException]:
    async def gather() -> list[Answer | BaseException]:
        batcher = Batcher(engine, wait_s=wait_s)
        answers = await asyncio.gather(*map(batcher.submit, clips), return_exceptions=True)
        assert batcher.backlog_s == 0
        return answers

    return asyncio.run(gather())


def texts(answers: Sequence[Answer | BaseException]) -> list[str]:
    return [answer.transcription.text if isinstance(answer, Answer) else str(answer) for answer in answers]


async def started(engine: Steps) -> None:
    """Returns once the engine is at a step."""
    while not engine.threads:
        await asyncio.sleep(0.01)


def test_clips_that_wait_together_start_together_shortest_first_and_end_one_by_one() -> None:
    engine = Steps()
    assert texts(submit_all(engine, clip(3), clip(1), clip(2))) == ["3", "1", "2"]
    assert engine.log == ["start 1 2 3", "end 1", "end 2", "end 3"]


def test_an_answer_tells_what_it_took_and_who_was_beside_it() -> None:
    short, long = submit_all(Steps(room_s=20), clip(2), clip(8))
    assert isinstance(short, Answer) and isinstance(long, Answer)
    assert (long.num_clips, long.fill) == (2, 0.5)
    assert 0 < short.compute_s < long.compute_s
    assert short.queue_s >= 0.01


def test_a_clip_starts_beside_those_that_are_being_decoded() -> None:
    engine = Steps()

    async def arrive_later() -> None:
        batcher = Batcher(engine, wait_s=0.0)
        engine.go.clear()
        long = asyncio.create_task(batcher.submit(clip(5)))
        await started(engine)
        short = asyncio.create_task(batcher.submit(clip(1)))
        await asyncio.sleep(0.05)
        engine.go.set()
        assert (await short).num_clips == 2
        await long

    asyncio.run(arrive_later())
    assert engine.log == ["start 5", "start 1", "end 1", "end 5"]


def test_nobody_overtakes_the_clip_that_waited_longest_and_does_not_fit_yet() -> None:
    engine = Steps(room_s=20)

    async def queue() -> None:
        batcher = Batcher(engine, wait_s=0.0)
        first = asyncio.create_task(batcher.submit(clip(12)))
        await asyncio.sleep(0.03)
        later = [asyncio.create_task(batcher.submit(clip(seconds))) for seconds in (10, 2, 3)]
        await asyncio.gather(first, *later)

    asyncio.run(queue())
    assert engine.log == ["start 12", "end 12", "start 2 3 10", "end 2", "end 3", "end 10"]


def test_behind_a_full_engine_clips_start_several_at_a_time() -> None:
    engine = Steps(room_s=20)
    submit_all(engine, clip(3), clip(5), clip(6), clip(6), *[clip(2)] * 6)
    assert engine.log[:4] == ["start 3 5 6 6", "end 3", "end 5", "start 2 2 2 2"]


def test_a_clip_above_the_room_goes_alone() -> None:
    engine = Steps(room_s=20)
    submit_all(engine, clip(30), clip(1))
    assert engine.log == ["start 30", "end 30", "start 1", "end 1"]


def test_a_clip_that_nobody_waits_for_never_starts_and_leaves_if_it_has() -> None:
    engine = Steps(room_s=20)

    async def give_up() -> None:
        batcher = Batcher(engine, wait_s=0.0)
        engine.go.clear()
        running, stays = (asyncio.create_task(batcher.submit(clip(seconds))) for seconds in (15, 5))
        await started(engine)
        waiting, last = (asyncio.create_task(batcher.submit(clip(seconds))) for seconds in (7, 6))
        await asyncio.sleep(0)
        assert batcher.backlog_s == 33
        running.cancel()
        waiting.cancel()
        await asyncio.sleep(0.05)
        engine.go.set()
        await asyncio.gather(stays, last)

    asyncio.run(give_up())
    assert engine.log == ["start 5 15", "drop 15", "start 6", "end 5", "end 6"]


def test_one_bad_clip_does_not_fail_its_neighbours() -> None:
    clips = [clip(1), clip(2, "poison"), clip(3), clip(1, "unknown")]
    first, second, third, fourth = submit_all(Steps(), *clips)
    assert isinstance(first, Answer) and isinstance(third, Answer)
    assert isinstance(second, ValueError) and isinstance(fourth, RequestError)


def test_an_engine_that_fails_on_silence_too_is_known_to_be_broken() -> None:
    async def fail(prompt: str) -> Exception | None:
        batcher = Batcher(Steps(), wait_s=0.0)
        with pytest.raises(ValueError, match="poison"):
            await batcher.submit(clip(1, prompt))
        return batcher.broken

    assert asyncio.run(fail("poison")) is None
    assert isinstance(asyncio.run(fail("wedged")), ValueError)


def test_nobody_waits_for_an_engine_that_cannot_even_forget() -> None:
    class Stuck(Steps):
        def drop(self, numbers: Collection[int]) -> None:
            raise OSError("gone")

    async def fail() -> tuple[list[Answer | BaseException], Exception | None]:
        batcher = Batcher(Stuck(), wait_s=0.01)
        requests = [batcher.submit(clip(2)), batcher.submit(clip(1, "poison"))]
        return await asyncio.gather(*requests, return_exceptions=True), batcher.broken

    answers, broken = asyncio.run(fail())
    assert texts(answers) == ["gone", "gone"]
    assert isinstance(broken, OSError)


def test_the_engine_has_one_thread_and_the_event_loop_stays_free() -> None:
    engine = Steps(step_s=0.2)

    async def count_turns() -> int:
        batcher = Batcher(engine, wait_s=0.0)
        answer = asyncio.create_task(batcher.submit(clip(2)))
        turns = 0
        while not answer.done():
            await asyncio.sleep(0)
            turns += 1
        assert batcher.busy_s == 0
        return turns

    assert asyncio.run(count_turns()) > 100
    assert len(engine.threads) == 1
    assert threading.get_ident() not in engine.threads


def test_a_step_that_hangs_shows() -> None:
    async def look() -> float:
        engine = Steps()
        batcher = Batcher(engine, wait_s=0.0)
        engine.go.clear()
        answer = asyncio.create_task(batcher.submit(clip(1)))
        await started(engine)
        busy_s = batcher.busy_s
        engine.go.set()
        await answer
        return busy_s

    assert asyncio.run(look()) > 0


class Batches:
    """Answers whole batches, and remembers their durations."""

    def __init__(self) -> None:
        self.batches: list[list[float]] = []

    def transcribe_batch(self, clips, *, languages=None, prompts=None) -> list[Transcription]:
        self.batches.append([len(samples) / 16000 for samples in clips])
        return [Transcription("", None, 0.0) for _ in clips if "lost" not in prompts]


def test_what_answers_whole_batches_is_an_engine_bounded_by_padded_seconds() -> None:
    batches = Batches()
    engine = BatchEngine(batches, max_batch_s=20)

    async def gather() -> None:
        batcher = Batcher(engine, wait_s=0.01)
        clips = [Clip.of(np.zeros(16000 * seconds, np.float32)) for seconds in (1, 10, 1, 30)]
        await asyncio.gather(*map(batcher.submit, clips))

    asyncio.run(gather())
    assert batches.batches == [[1, 10], [1], [30]]  # three rows of 10 s would be 30


def test_a_transcriber_that_loses_an_answer_is_an_error() -> None:
    async def submit() -> None:
        await Batcher(BatchEngine(Batches(), max_batch_s=100), wait_s=0.0).submit(clip(1, "lost"))

    with pytest.raises(RuntimeError, match="0 of 1"):
        asyncio.run(submit())
