"""A recording's pieces on their way to the model and back, over a model that a test controls."""

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest

from caspi.audio import encode_flac
from caspi.errors import AudioDecodeError
from caspi.inference.engine import Clip
from caspi.inference.long_form import Segment, Transcript
from caspi.inference.transcription import Transcription
from serve.deadline import by_deadline
from serve.errors import ApiError
from serve.options import Options
from serve.recordings import OnSegment, transcribe_recording
from serve.schemas import Fields
from tests.serve.backends import Backend
from tests.speech import lay, spoken

# Twelve words with a second between them.
WORDS = encode_flac(lay(25, *((2 * number, 2 * number + 1) for number in range(12))))


class Model(Backend):
    """Answers with the clip's number, after `seconds(number)`; the first `num_full` calls behind the first are 429."""

    def __init__(self, seconds: Any = lambda number: 0.0, *, num_full: int = 0, full_from: int = 2) -> None:
        self._seconds = seconds
        self._num_full = num_full
        self._full_from = full_from
        self.num_calls = 0
        self.num_inside = self.most_inside = 0

    async def transcribe(self, clip: Clip, *, deadline: float) -> Transcription:
        self.num_calls += 1
        number = self.num_calls
        if number >= self._full_from and self._num_full:
            self._num_full -= 1
            raise ApiError(429, "Every queue is full.", code="rate_limit_exceeded")
        self.num_inside += 1
        self.most_inside = max(self.most_inside, self.num_inside)
        try:
            await by_deadline(asyncio.sleep(self._seconds(number)), deadline)
        finally:
            self.num_inside -= 1
        return Transcription(str(number), "Hebrew", clip.duration_s)


async def transcribe(
    model: Model,
    source: Path | bytes = WORDS,
    on_segment: OnSegment | None = None,
    timeout_s: float = 60,
    **options: Any,
) -> Transcript:
    return await transcribe_recording(
        model,
        source,
        Fields(),
        name="words.flac",
        options=Options(model="double", **options),
        deadline=time.monotonic() + timeout_s,
        on_segment=on_segment,
    )


def test_segments_come_in_order_though_later_ones_are_done_first() -> None:
    heard: list[Segment] = []
    model = Model(lambda number: 0.3 / number)
    transcript = asyncio.run(transcribe(model, on_segment=heard.append))
    assert transcript.text == " ".join(str(number) for number in range(1, 13))
    assert heard == list(transcript.segments)
    assert transcript.covered_s == transcript.duration_s == 25.0


@pytest.mark.parametrize(("max_window_s", "most"), [(0.1, 1), (6.2, 4), (500, 12)])
def test_as_much_is_with_the_model_as_the_window_lets_in(max_window_s: float, most: int) -> None:
    model = Model(lambda number: 0.5)  # pieces of a second and a half
    asyncio.run(transcribe(model, max_window_s=max_window_s))
    assert min(most, 6) <= model.most_inside <= most


def test_a_piece_that_finds_every_queue_full_waits() -> None:
    model = Model(num_full=3)
    transcript = asyncio.run(transcribe(model))
    assert len(transcript.segments) == 12
    assert model.num_calls == 15


def test_a_recording_whose_first_piece_finds_every_queue_full_is_refused() -> None:
    with pytest.raises(ApiError) as refusal:
        asyncio.run(transcribe(Model(num_full=1, full_from=1)))
    assert refusal.value.status_code == 429


def test_its_length_extends_a_recordings_deadline() -> None:
    async def slow(min_rtfx: float) -> Transcript:
        # Twelve pieces, two or three at a time, of 0.2 s: a second at least.
        return await transcribe(Model(lambda number: 0.2), timeout_s=0.4, min_rtfx=min_rtfx, max_window_s=1)

    assert len(asyncio.run(slow(min_rtfx=1)).segments) == 12
    with pytest.raises(ApiError) as refusal:
        asyncio.run(slow(min_rtfx=1000))
    assert refusal.value.code == "deadline_exceeded"


def test_long_recordings_leave_room_for_short_ones() -> None:
    async def crowd() -> int:
        model = Model(lambda number: 0.05)
        await asyncio.gather(*(transcribe(model, max_in_flight=8) for _ in range(4)))
        return model.most_inside

    assert asyncio.run(crowd()) <= 4 + 4  # the first piece of each, and half of the room


def test_whoever_gives_up_stops_the_pieces() -> None:
    async def give_up() -> Model:
        model = Model(lambda number: 60)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(transcribe(model), 3)
        return model

    model = asyncio.run(give_up())
    assert model.num_calls > 1 and model.num_inside == 0


def test_a_bad_end_stops_the_pieces_before_it(tmp_path: Path) -> None:
    (tmp_path / "cut.flac").write_bytes(spoken(120)[:-100_000])
    model = Model(lambda number: 60)
    with pytest.raises(AudioDecodeError, match=r"words\.flac"):
        asyncio.run(transcribe(model, tmp_path / "cut.flac"))
    assert model.num_inside == 0
