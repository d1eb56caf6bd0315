"""Contexts: as often as asked for, true and false terms, what was said before, and never longer than allowed."""

from pathlib import Path

import numpy as np
import pytest

from caspi.model import Prompter, load_prompter
from caspi.recipe.sections import Context
from caspi.training.context import ContextMaker, Vocabulary, terms_of

TEXT = "ראש הממשלה נפגש עם שר האוצר בירושלים, אתמול."
OTHERS = [TEXT, "המשטרה עצרה חשודים בתל-אביב", "מזג האוויר יהיה נאה", 'דובר צה"ל מסר הודעה']
VOCABULARY = Vocabulary.of(OTHERS)
PREVIOUS = "זה מה שנאמר קודם לכן"


@pytest.fixture(scope="session")
def prompter(toy_model: Path) -> Prompter:
    return load_prompter(toy_model)


def contexts(prompter: Prompter, *, previous: str | None = PREVIOUS, text: str = TEXT, **settings) -> list[str]:
    maker = ContextMaker(Context(**({"share": 1.0, "max_tokens": 400} | settings)), prompter)
    return [maker.make(text, previous, VOCABULARY, np.random.default_rng(number)) for number in range(200)]


def test_a_share_of_utterances_has_a_context(prompter):
    assert sum(map(bool, contexts(prompter, share=0.25))) == pytest.approx(50, abs=15)


def test_by_default_none_has(prompter):
    assert Context().share == 0
    assert not any(contexts(prompter, share=0.0))


def test_a_share_of_contexts_is_key_terms_and_the_rest_what_was_said_before(prompter):
    made = contexts(prompter, key_term_share=0.5)
    assert sum(context == PREVIOUS for context in made) == pytest.approx(100, abs=25)


def test_key_terms_stand_in_where_nothing_was_said_before(prompter):
    assert sum(map(bool, contexts(prompter, previous=None, key_term_share=0.0))) > 190


def test_key_terms_are_words_said_among_words_not_said(prompter):
    said = set(terms_of(TEXT))
    lists = [context.split(", ") for context in contexts(prompter, key_term_share=1.0) if context]
    assert all(set(terms) <= set(VOCABULARY.terms) for terms in lists)
    assert all(len(terms) == len(set(terms)) for terms in lists)
    own = [sum(term in said for term in terms) for terms in lists]
    assert 0 in own and max(own) == 3
    assert sum(len(terms) > count for terms, count in zip(lists, own, strict=True)) > 150
    places = {terms.index("בירושלים") for terms in lists if "בירושלים" in terms}
    assert len(places) > 2, "the true ones stand anywhere"


def test_rare_terms_come_before_frequent_ones(prompter):
    vocabulary = Vocabulary.of([TEXT, "ראש הממשלה נפגש", "שר האוצר אתמול", "הממשלה נפגש אתמול"])
    maker = ContextMaker(Context(share=1.0, key_term_share=1.0, max_tokens=400), prompter)
    own = {
        term
        for number in range(300)
        for term in maker.make(TEXT, None, vocabulary, np.random.default_rng(number)).split(", ")
        if term in terms_of(TEXT)
    }
    assert own == {"בירושלים", "האוצר", "ראש"}


def test_silence_gets_terms_that_nobody_says(prompter):
    lists = [context.split(", ") for context in contexts(prompter, text="", previous=None)]
    assert all(set(terms) <= set(VOCABULARY.terms) for terms in lists)


@pytest.mark.parametrize("max_tokens", [1, 5, 12, 40])
@pytest.mark.parametrize("key_term_share", [0.0, 1.0])
def test_a_context_adds_at_most_so_many_tokens(prompter, max_tokens, key_term_share):
    bare = len(prompter.prompt(10))
    for context in contexts(prompter, max_tokens=max_tokens, key_term_share=key_term_share):
        assert len(prompter.prompt(10, context=context)) - bare <= max_tokens


def test_of_what_was_said_before_the_end_is_kept(prompter):
    (context,) = set(contexts(prompter, key_term_share=0.0, max_tokens=12))
    assert context and PREVIOUS.endswith(context) and context != PREVIOUS


def test_terms_are_words_without_the_marks_around_them():
    assert terms_of('(דובר צה"ל, בתל-אביב: "לא"!)') == ["דובר", 'צה"ל', "בתל-אביב"]


def test_a_vocabulary_without_words_gives_no_context(prompter):
    maker = ContextMaker(Context(share=1.0), prompter)
    assert maker.make("", None, Vocabulary.of([]), np.random.default_rng(0)) == ""
