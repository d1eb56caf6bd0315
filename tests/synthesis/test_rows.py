"""One row at a time: what is wrong with a bad clip, how a recital is cut into slices."""

import random
import re

import pytest

from caspi import audio
from caspi.errors import AudioError
from caspi.synthesis.clips import clip_row
from caspi.synthesis.grammar import Grammar
from caspi.synthesis.plan import CLIP_FLAWS, CROWD_TRANSCRIBE, RECITAL, Clip, Entry, Part
from caspi.synthesis.slices import slice_rows
from caspi.synthesis.voices import TRAIN_VOICES
from caspi.text import normalizer

CROWD_PART = Part(CROWD_TRANSCRIBE, "train", 0, 1)
RECITAL_PART = Part(RECITAL, "train", 0, 1)


def speak_clip(engine, flaw):
    clip = Clip("some-uuid", Grammar(random.Random(0)).sentence(), TRAIN_VOICES[0], flaw)
    speech = engine.speak([word.phonemes for word in clip.sentence.words], clip.voice)
    return clip_row(clip, speech, CROWD_PART, random.Random(0))


def read_entry(engine, num_sentences, seed=0, flaw=None):
    grammar = Grammar(random.Random(seed))
    sentences = tuple(grammar.sentence() for _ in range(num_sentences))
    entry = Entry("entry0", sentences, TRAIN_VOICES[3], flaw)
    speeches = [engine.speak([word.phonemes for word in each.words], entry.voice) for each in sentences]
    return list(slice_rows(entry, speeches, RECITAL_PART, random.Random(seed)))


@pytest.mark.parametrize("flaw", [flaw for flaw, reason in CLIP_FLAWS.items() if reason.endswith("_audio")])
def test_broken_audio_is_refused_for_the_declared_reason(engine, flaw):
    row, truth = speak_clip(engine, flaw)
    with pytest.raises(AudioError) as refused:
        audio.decode(row["audio"]["bytes"], source=flaw)
    assert refused.value.reason == truth["bad"]


@pytest.mark.parametrize("flaw", ["no_text", "only_marks", "skipped"])
def test_rows_without_text_hold_no_letter(engine, flaw):
    row, _ = speak_clip(engine, flaw)
    assert normalizer("he").scoring(row["sentence"]) == ""


@pytest.mark.parametrize("flag", ["noisy", "skipped", "foreign_language", "unintelligible", "multiple_speakers"])
def test_flagged_rows_carry_their_flag_alone(engine, flag):
    row, truth = speak_clip(engine, flag)
    flags = ("noisy", "skipped", "foreign_language", "unintelligible", "multiple_speakers", "too_long")
    assert [name for name in flags if row["extra_data"][name]] == [flag]
    assert truth["bad"] == flag


def test_too_short_and_too_wordy_clips_are_extreme(engine):
    short, _ = speak_clip(engine, "far_too_short")
    assert audio.decode(short["audio"]["bytes"], source="short").duration_s < 0.2
    wordy, _ = speak_clip(engine, "too_much_text")
    assert len(wordy["sentence"]) / wordy["extra_data"]["duration"] > 60


def test_slices_are_of_thirty_seconds_and_their_tokens_stand_on_the_grid(engine):
    slices = read_entry(engine, 24)
    assert len(slices) >= 2
    for row, _ in slices:
        times = [float(time) for time in re.findall(r"<\|(\d+\.\d\d)\|>", row["transcript"])]
        assert times == sorted(times) and times[-1] <= 30
        assert all(round(time * 100) % 2 == 0 for time in times)
        assert audio.decode(row["audio"]["bytes"], source="slice").duration_s <= 30.05
        assert row["metadata"]["duration"] == 30 and row["audio"]["path"] == "entry0"


def test_a_sentence_that_crosses_the_end_is_announced_and_opens_the_next_slice(engine):
    slices = read_entry(engine, 24)
    first, second = slices[0][0], slices[1][0]
    assert re.search(r"<\|\d+\.\d\d\|><\|(\d+\.\d\d)\|>$", first["transcript"])
    opens_s = float(re.findall(r"\d+\.\d\d", first["transcript"])[-1])
    assert second["metadata"]["seek"] == pytest.approx(opens_s)
    assert second["has_prev"] and second["prev_transcript"] == first["transcript"]
    assert second["transcript"].startswith("<|0.00|>") or slices[1][1][0]["bad"] == "untranscribed"


def test_every_sentence_is_written_once_or_declared_untranscribed(engine):
    for seed in range(4):
        slices = read_entry(engine, 24, seed)
        assert sum(len(truth) for _, truth in slices) == 24
        for row, truth in slices:
            written = re.findall(r"<\|[\d.]+\|> ([^<]+)<\|[\d.]+\|>", row["transcript"])
            assert written == [said["written"] for said in truth if said["bad"] is None]


def test_some_slices_begin_with_speech_that_nobody_transcribed(engine):
    untranscribed = [
        said
        for seed in range(6)
        for _, truth in read_entry(engine, 24, seed)
        for said in truth
        if said["bad"] == "untranscribed"
    ]
    assert untranscribed
    assert all(said["start_s"] < 1 for said in untranscribed)


def test_a_reading_without_text_has_only_tokens(engine):
    ((row, truth),) = read_entry(engine, 1, flaw="no_text")
    assert row["transcript"] == "<|0.00|><|0.02|>"
    assert truth[0]["bad"] == "empty_text"
