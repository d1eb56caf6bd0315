"""What nobody said."""

import numpy as np
import pytest

from caspi.evaluation.hallucination import NUM_CLIPS, is_repetition, make_clips, summarize


@pytest.mark.parametrize(
    "heard",
    [
        "תודה תודה תודה תודה",
        "אני לא יודע אני לא יודע אני לא יודע אני לא יודע",
        "ועכשיו " + "מה זה " * 30,
        "הה" * 8,
        "שלום חחחחחחחחחח",
    ],
)
def test_a_loop_is_known(heard: str):
    assert is_repetition("שלום", heard.strip())


@pytest.mark.parametrize(
    ("said", "heard"),
    [
        ("כן כן לא כן", "כן כן כן לא כן"),
        ("כן כן כן כן כן", "כן כן כן כן כן"),  # somebody said so
        ("כן כן כן", "כן כן כן כן"),
        ("חחחחחחחח", "חחחחחחחחחח"),
        ("", ""),
        ("שלום", "אבאבאב"),
    ],
)
def test_what_was_spoken_is_no_loop(said: str, heard: str):
    assert not is_repetition(said, heard)


def test_everybody_is_asked_about_the_same_silence_and_noise():
    clips, again = make_clips(), make_clips()
    assert len(clips) == NUM_CLIPS == len({clip.clip_id for clip in clips})
    assert {clip.kind for clip in clips} == {"silence", "noise"}
    for clip, other in zip(clips, again, strict=True):
        assert clip.samples.dtype == np.float32
        np.testing.assert_array_equal(clip.samples, other.samples)
    level = {clip.clip_id: float(np.sqrt(np.mean(clip.samples**2))) for clip in clips}
    assert level["silence/digital/3s"] == 0
    assert 20 * np.log10(level["silence/room/20s"]) == pytest.approx(-65, abs=0.1)
    assert 20 * np.log10(level["noise/white/1s"]) == pytest.approx(-30, abs=0.1)


def test_words_are_counted_by_the_minute_and_by_the_kind_of_silence():
    def row(reference: str, hypothesis: str, **more: object) -> dict:
        return {
            "reference_scored": reference,
            "hypothesis_scored": hypothesis,
            "hypothesis": hypothesis,
            "duration_s": 30.0,
            "is_repetition": False,
            "error": None,
            **more,
        }

    found = summarize(
        [row("", "מה זה"), row("שלום", ""), row("שלום", "שלום " * 9, is_repetition=True)],
        [
            row("", "תודה רבה לכם", utterance_id="noise/hum/3s", source="noise"),
            row("", "", utterance_id="silence/digital/3s", source="silence"),
        ],
    )
    assert (found["num_silent"], found["num_hallucinated"], found["words_on_silence"]) == (3, 2, 5)
    assert (found["silent_s"], found["words_per_minute"]) == (90.0, pytest.approx(10 / 3))
    assert found["by_kind"]["noise"]["words_per_minute"] == pytest.approx(6)
    assert found["by_kind"]["silence"]["num_hallucinated"] == 0
    assert found["by_kind"]["empty_reference"]["words_on_silence"] == 2
    assert (found["num_repetitions"], found["num_empty"]) == (1, 1)
    assert found["clips"][0] == {"clip": "noise/hum/3s", "hypothesis": "תודה רבה לכם"}
