"""Recordings of any length, to one transcript."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import example, given
from hypothesis import strategies as st

from caspi import audio
from caspi.audio import SAMPLE_RATE
from caspi.errors import AudioDecodeError, AudioTooLongError, EmptyAudioError, RequestError
from caspi.inference.cutting import Cutting, Piece
from caspi.inference.long_form import Joiner, cut, transcribe, without_tags
from caspi.inference.transcription import Transcription
from tests.speech import lay, speak, spoken


class Counting:
    """Answers each clip with its number and its length."""

    def __init__(self) -> None:
        self.batches: list[int] = []

    def transcribe_batch(
        self,
        clips: Sequence[np.ndarray],
        *,
        languages: Sequence[str | None] | None = None,
        prompts: Sequence[str] | None = None,
    ) -> list[Transcription]:
        first = sum(self.batches)
        self.batches.append(len(clips))
        return [
            Transcription(f"<{first + place}>", "Hebrew", len(clip) / SAMPLE_RATE) for place, clip in enumerate(clips)
        ]


def test_text_is_joined_in_order_and_every_second_is_covered() -> None:
    transcript = transcribe(Counting(), lay(20, (1, 3), (5, 6), (9, 15)))
    assert transcript.text == "<0> <1> <2>"
    assert (transcript.duration_s, transcript.covered_s) == (20.0, 20.0)
    assert 9 <= transcript.usage.speech_s <= 12
    np.testing.assert_allclose([(s.start_s, s.end_s) for s in transcript.segments], [(1, 3), (5, 6), (9, 15)], atol=0.1)


@pytest.mark.parametrize("duration_s", [0.1, 1.0, 61.3, 700.0])
def test_covered_seconds_are_the_recordings_seconds(duration_s: float) -> None:
    speech = speak(duration_s)
    speech[len(speech) // 3 : len(speech) // 2] = 0
    transcript = transcribe(Counting(), audio.encode_flac(speech))
    assert transcript.covered_s == transcript.duration_s == pytest.approx(duration_s, abs=1e-4)


def test_files_bytes_and_samples_give_the_same_transcript(tmp_path: Path) -> None:
    samples = audio.decode(spoken(45), source="x").samples
    (tmp_path / "speech.flac").write_bytes(spoken(45))
    given = [tmp_path / "speech.flac", spoken(45), samples]
    first, second, third = (transcribe(Counting(), source) for source in given)
    assert first == second == third


@pytest.mark.parametrize("container", ["wav", "flac", "mp3", "ogg"])
def test_a_mapped_file_is_read_as_its_bytes_are(tmp_path: Path, container: str) -> None:
    path = tmp_path / "speech"
    soundfile.write(path, speak(3), SAMPLE_RATE, format=container.upper())
    mapped = np.concatenate([p.samples for p in cut(path, cutting=Cutting()) if p.samples is not None])
    whole = np.concatenate([p.samples for p in cut(path.read_bytes(), cutting=Cutting()) if p.samples is not None])
    np.testing.assert_array_equal(mapped, whole)


def test_silence_is_covered_without_asking_the_model() -> None:
    model = Counting()
    transcript = transcribe(model, np.zeros(30 * SAMPLE_RATE, np.float32))
    assert (transcript.text, transcript.language, transcript.segments) == ("", None, ())
    assert (transcript.covered_s, transcript.usage.speech_s) == (30.0, 0.0)
    assert model.batches == []


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (b"", EmptyAudioError),
        (b"not audio at all " * 9, AudioDecodeError),
        (spoken(3)[:-2000], AudioDecodeError),
        (spoken(40)[:-2000], AudioDecodeError),
    ],
    ids=["empty", "text", "cut off", "cut off late"],
)
def test_a_bad_recording_is_an_error_from_a_file_as_from_bytes(tmp_path: Path, content: bytes, error: type) -> None:
    (tmp_path / "speech").write_bytes(content)
    for source in (content, tmp_path / "speech"):
        with pytest.raises(error, match="speech"):
            transcribe(Counting(), source, name="speech")


def test_a_file_that_is_not_there_and_one_that_is_too_long(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="cannot be read"):
        transcribe(Counting(), tmp_path / "nothing.wav")
    with pytest.raises(AudioTooLongError, match="at most 5 s"):
        list(cut(spoken(6), cutting=Cutting(), max_duration_s=5))


def test_the_language_is_that_of_most_of_the_speech() -> None:
    joiner = Joiner()
    for start, end, language in ((0, 10, "Hebrew"), (10, 40, "English"), (40, 55, "Hebrew"), (55, 56, None)):
        places = (start * SAMPLE_RATE, end * SAMPLE_RATE)
        joiner.add(Piece(*places, np.zeros(1, np.float32), *places), Transcription("x", language, end - start))
    assert joiner.finish().language == "English"


def test_a_piece_cannot_be_left_out_unnoticed() -> None:
    joiner = Joiner()
    joiner.add(Piece(0, 100), None)
    with pytest.raises(RuntimeError, match="does not follow"):
        joiner.add(Piece(200, 300), None)
    with pytest.raises(RuntimeError, match="at sample 100"):
        joiner.add(Piece(100, 300, np.zeros(200, np.float32), 100, 300), None)


def test_where_the_model_hears_nothing_there_is_no_segment() -> None:
    joiner = Joiner()
    assert joiner.add(Piece(0, 100, np.zeros(100, np.float32), 0, 100), Transcription("", None, 1.0)) is None
    assert joiner.finish().segments == ()


TAGS = ("language Hebrew<asr_text>", "<asr_text>", "language None<asr_text>", "<|im_end|>", "<|audio_pad|>")
WORDS = ("שלום", "hello", "language", "a < b", "3 > 2", "|")


@given(st.lists(st.sampled_from(TAGS + WORDS), max_size=12), st.sampled_from(["", " "]))
@example(["language Hebrew<asr_text>", "language Hebrew<asr_text>"], "")
def test_no_tag_leaks_whatever_the_model_writes(parts: list[str], between: str) -> None:
    cleaned = without_tags(between.join(parts))
    assert "<asr_text>" not in cleaned and "<|" not in cleaned
    if "language" not in parts:  # a word behind it may be the name of one
        assert cleaned.count("שלום") == between.join(parts).count("שלום")


@pytest.mark.parametrize(
    ("written", "text"),
    [
        ("language Hebrew<asr_text>שלום", "שלום"),
        ("language Hebrew<asr_text>", ""),
        ("language Hebrew", ""),
        ("language", ""),
        ("שלום<asr_text>עולם", "שלום עולם"),
        ("שלום language Hebrew<asr_text>עולם", "שלום עולם"),
        ("the language of Hebrew is old", "the language of Hebrew is old"),
        ("a < b and <b> stay", "a < b and <b> stay"),
    ],
)
def test_tags_go_and_words_stay(written: str, text: str) -> None:
    assert without_tags(written) == text


HOURS = """
import sys
from pathlib import Path
from caspi.inference.cutting import Cutting
from caspi.inference.long_form import Joiner, cut
from caspi.inference.transcription import Transcription

def anonymous_mb():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 1024

list(cut(Path(sys.argv[2]), cutting=Cutting()))  # libraries and the detector are loaded
before, peak, joiner = anonymous_mb(), 0.0, Joiner()
for piece in cut(Path(sys.argv[1]), cutting=Cutting()):
    joiner.add(piece, None if piece.samples is None else Transcription("x", "Hebrew", piece.duration_s))
    peak = max(peak, anonymous_mb())
transcript = joiner.finish()
print(transcript.duration_s, transcript.covered_s, len(transcript.segments), peak - before)
"""


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("minutes", [10, 60, 180])
def test_hours_are_covered_in_memory_that_does_not_grow(tmp_path: Path, minutes: int) -> None:
    minute = np.concatenate([speak(25), np.zeros(10 * SAMPLE_RATE, np.float32), speak(20), lay(5)])
    for name, num_minutes in (("long.flac", minutes), ("short.flac", 1)):
        with soundfile.SoundFile(tmp_path / name, "w", SAMPLE_RATE, 1) as file:
            for _ in range(num_minutes):
                file.write(minute)
    command = [sys.executable, "-c", HOURS, str(tmp_path / "long.flac"), str(tmp_path / "short.flac")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    duration_s, covered_s, num_segments, grown_mb = map(float, done.stdout.split())
    assert duration_s == covered_s == 60 * minutes
    assert num_segments >= minutes
    assert grown_mb < 40
