import random
from pathlib import Path

import numpy as np
import pytest

from caspi.synthesis.dressing import dress
from caspi.synthesis.espeak import SAMPLE_RATE, SpeechEngineError
from caspi.synthesis.grammar import Grammar
from caspi.synthesis.scene import add_noise, place
from caspi.synthesis.vocabulary import WORDS
from caspi.synthesis.voices import TEST_VOICES, TRAIN_VOICES, VARIANTS, Voice
from caspi.text import normalizer


def test_every_word_is_audible_in_every_voice(engine):
    for voice in TRAIN_VOICES + TEST_VOICES:
        speech = engine.speak([word.phonemes for word in WORDS[:8]], voice)
        starts = [*speech.word_starts_s, len(speech.samples) / SAMPLE_RATE]
        assert starts[0] == 0 and min(np.diff(starts)) > 0.05
        assert np.abs(speech.samples).max() > 5000


def test_every_word_of_the_vocabulary_can_be_said(engine):
    for word in WORDS:
        speech = engine.speak([word.phonemes], TRAIN_VOICES[0])
        assert 0.1 < len(speech.samples) / SAMPLE_RATE < 1.5, word.plain


def test_a_voice_that_does_not_exist_is_named(engine):
    with pytest.raises(SpeechEngineError, match="nobody"):
        engine.speak(["Sal'om"], Voice("nobody", 50, 160))


def test_no_voice_has_breath_which_espeak_does_not_reproduce():
    espeakng_loader = pytest.importorskip("espeakng_loader")
    for variant in VARIANTS:
        definition = Path(espeakng_loader.get_data_path()) / "voices" / "!v" / variant
        assert not any(line.startswith("breath") for line in definition.read_text().splitlines()), variant


def test_noise_is_as_far_below_the_speech_as_asked(engine):
    speech = engine.speak([word.phonemes for word in WORDS[:5]], TRAIN_VOICES[0])
    clean = place([(0.2, speech)], 4.0)
    noise = add_noise(clean, 20.0, seed=1) - clean
    assert 10 * np.log10(np.mean(clean**2) / np.mean(noise**2)) == pytest.approx(20.0, abs=0.1)
    assert np.abs(clean).max() == 1.0


def test_dressed_sentences_differ_in_writing_and_agree_when_normalized():
    hebrew = normalizer("he")
    grammar = Grammar(random.Random(0))
    rng = random.Random(1)
    for _ in range(100):
        sentence = grammar.sentence()
        written = {dress(sentence, rng) for _ in range(30)}
        assert len(written) > 1
        assert {hebrew.transcript(text) for text in written} == {sentence.plain}
