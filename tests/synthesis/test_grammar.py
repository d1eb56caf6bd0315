import random
from collections import Counter

import pytest

from caspi.errors import RequestError
from caspi.synthesis.grammar import PATTERNS, Grammar
from caspi.synthesis.plan import CLIP_FLAWS, plan
from caspi.synthesis.vocabulary import FUNCTION_WORDS, GROUPS, WORDS
from caspi.synthesis.voices import TEST_VOICES, TRAIN_VOICES
from caspi.text import normalizer


def test_the_vocabulary_has_over_a_hundred_words_that_look_and_sound_different():
    assert len(WORDS) >= 100
    assert len({word.plain for word in WORDS}) == len(WORDS)
    assert len({word.phonemes.replace("'", "") for word in WORDS}) == len(WORDS)


def test_the_plain_spelling_is_what_the_normalizer_makes_of_the_pointed_one():
    assert [normalizer("he").transcript(word.pointed) for word in WORDS] == [word.plain for word in WORDS]


def test_pointed_words_have_points():
    unpointed = [word.plain for word in WORDS if word.pointed == word.plain]
    assert unpointed == ['ד"ר']


def test_gershayim_geresh_and_maqaf_are_spoken():
    assert sum('"' in word.plain for word in WORDS) >= 4
    assert sum("'" in word.plain for word in WORDS) >= 4
    assert sum("-" in word.plain for word in WORDS) >= 2


def test_every_group_is_used_by_a_pattern():
    slots = {slot for _, pattern in PATTERNS for slot in pattern.split()} - {"?", "!"}
    named = {"person" if slot in ("subject", "person") else slot for slot in slots} - FUNCTION_WORDS.keys()
    assert {group.removesuffix("_m").removesuffix("_f") for group in GROUPS} - {"function", "doctor", "surname"} == {
        slot.removesuffix("_m") for slot in named
    }
    assert FUNCTION_WORDS.keys() <= slots


def test_sentences_never_repeat_and_use_every_word_about_as_often():
    grammar = Grammar(random.Random(0))
    sentences = [grammar.sentence() for _ in range(1400)]
    assert len({sentence.plain for sentence in sentences}) == 1400
    uses = Counter(word.plain for sentence in sentences for word in sentence.words)
    assert len(uses) == len(WORDS)
    assert min(uses.values()) >= 18
    assert max(uses.values()) <= 200
    assert {len(sentence.words) for sentence in sentences} <= set(range(3, 9))


def test_a_small_grammar_that_runs_dry_says_so(monkeypatch):
    monkeypatch.setattr("caspi.synthesis.grammar.PATTERNS", ((1, "time place"),))
    grammar = Grammar(random.Random(0))
    with pytest.raises(RequestError, match="fewer utterances"):
        for _ in range(61):
            grammar.sentence()


def test_test_voices_are_new_and_of_known_kinds():
    assert 24 <= len(TRAIN_VOICES) <= 40 and 6 <= len(TEST_VOICES) <= 8
    assert not set(TRAIN_VOICES) & set(TEST_VOICES)
    assert len({voice.name for voice in TRAIN_VOICES + TEST_VOICES}) == len(TRAIN_VOICES + TEST_VOICES)
    assert {voice.variant for voice in TEST_VOICES} <= {voice.variant for voice in TRAIN_VOICES}


def test_the_default_corpus_has_every_flaw():
    flaws = Counter(clip.flaw for part in plan(1600, 42) for clip in part.clips)
    assert flaws.keys() == {None, *CLIP_FLAWS}
    assert 0.02 < 1 - flaws[None] / flaws.total() < 0.04


def test_test_sentences_hold_no_word_that_training_lacks():
    parts = plan(1600, 42)
    heard = {word for part in parts if part.split == "train" for clip in part.clips for word in clip.sentence.words}
    assert heard >= {
        word for part in parts if part.split == "test" for clip in part.clips for word in clip.sentence.words
    }
