"""Error rates."""

from collections.abc import Sequence

import jiwer
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from caspi.errors import RequestError
from caspi.evaluation import score
from caspi.evaluation.metrics import align, count_errors

WORDS = st.lists(st.sampled_from(["שלום", "עולם", "בית", "ספר", "a", "b"]), max_size=8).map(" ".join)


def test_errors_are_pooled_and_not_averaged():
    result = score(["א ב ג ד ה ו ז ח ט", "י"], ["א ב ג ד ה ו ז ח ט", "כ"])
    assert result.wer == pytest.approx(1 / 10)  # the average of 0% and 100% would be 50%
    assert (result.hits, result.substitutions, result.reference_words, result.num_utterances) == (9, 1, 10, 2)


@pytest.mark.parametrize("written", ['צה"ל', "צה״ל", "צה''ל", "צה׳׳ל"])
def test_every_way_to_write_gershayim_is_the_same_word(written: str):
    assert score([f"{written} הודיע"], ["צה״ל הודיע"]).wer == 0


def test_glued_words_are_two_errors():
    result = score(["בית ספר גדול"], ["ביתספר גדול"])
    assert (result.substitutions, result.deletions, result.insertions, result.hits) == (1, 1, 0, 1)
    assert result.wer == pytest.approx(2 / 3)


def test_words_heard_in_silence_are_insertions():
    result = score(["", "שלום עולם"], ["מה זה", "שלום עולם"])
    assert (result.insertions, result.reference_words, result.wer) == (2, 2, 1.0)


@pytest.mark.parametrize(("heard", "wer", "cer"), [("", 0.0, 0.0), ("מה זה", 2.0, 5.0), ("?!", 0.0, 0.0)])
def test_without_a_reference_word_the_rate_is_the_number_of_invented_words(heard: str, wer: float, cer: float):
    result = score([""], [heard])
    assert (result.wer, result.cer, result.reference_words) == (wer, cer, 0)


def test_characters_are_counted_with_their_spaces():
    assert score(["בית ספר"], ["ביתספר"]).cer == pytest.approx(1 / 7)


@pytest.mark.parametrize(
    ("references", "hypotheses", "message"), [([], [], "no references"), (["א"], ["א", "ב"], "1 references and 2")]
)
def test_what_cannot_be_compared_is_refused(references: list[str], hypotheses: list[str], message: str):
    with pytest.raises(RequestError, match=message):
        score(references, hypotheses)


def test_clusters_must_fit_the_utterances():
    with pytest.raises(RequestError, match="2 clusters for 1"):
        score(["א"], ["א"], clusters=["x", "y"])


@given(st.lists(st.tuples(WORDS, WORDS), min_size=1, max_size=6))
def test_counts_agree_with_jiwer(pairs: list[tuple[str, str]]):
    references, hypotheses = zip(*pairs, strict=True)
    ours = score(references, hypotheses)
    theirs = jiwer.process_words(list(references), list(hypotheses))
    assert ours.wer == pytest.approx(theirs.wer)
    assert (ours.substitutions, ours.deletions, ours.insertions, ours.hits) == (
        theirs.substitutions,
        theirs.deletions,
        theirs.insertions,
        theirs.hits,
    )
    if any(references):
        assert ours.cer == pytest.approx(jiwer.cer(list(references), list(hypotheses)))
    if ours.wer_interval is not None:
        low, high = ours.wer_interval
        assert 0 <= low <= ours.wer <= high


@given(WORDS, WORDS)
def test_the_alignment_tells_the_same_errors(reference: str, hypothesis: str):
    kinds = [difference.kind for difference in align(reference, hypothesis)]
    counts = count_errors([reference], [hypothesis])
    for kind in ("substitution", "deletion", "insertion", "hit"):
        assert kinds.count(kind) == getattr(counts, f"{kind}s")[0]


VOCABULARY = ["שלום", "עולם", "בית", "ספר", "ילד", "ילדה", "הלך", "הלכה", "אל", "על"]


def random_pairs(num_pairs: int) -> tuple[list[str], list[str]]:
    generator = np.random.default_rng(3)
    references = [_sentence(VOCABULARY, generator) for _ in range(num_pairs)]
    hypotheses = [
        _sentence(VOCABULARY, generator) if generator.random() < 0.3 else _disturbed(each, generator)
        for each in references
    ]
    return references, hypotheses


def test_no_alignment_of_a_thousand_random_pairs_has_fewer_errors():
    references, hypotheses = random_pairs(1000)
    counts = count_errors(references, hypotheses)
    words = [_fewest_errors(said.split(), heard.split()) for said, heard in zip(references, hypotheses, strict=True)]
    assert counts.word_errors.tolist() == words
    assert counts.reference_words.tolist() == [len(said.split()) for said in references]
    characters = [_fewest_errors(said, heard) for said, heard in zip(references, hypotheses, strict=True)]
    assert counts.character_errors.tolist() == characters
    # Of the words that were heard, those that are right or replaced stand for one that was said.
    heard = [len(each.split()) for each in hypotheses]
    assert (counts.hits + counts.substitutions + counts.insertions).tolist() == heard


def test_a_thousand_random_pairs_agree_with_jiwer():
    references, hypotheses = random_pairs(1000)
    ours = score(references, hypotheses)
    words, characters = jiwer.process_words(references, hypotheses), jiwer.process_characters(references, hypotheses)
    assert (ours.wer, ours.cer) == (pytest.approx(words.wer), pytest.approx(characters.cer))
    for name in ("substitutions", "deletions", "insertions", "hits"):
        assert getattr(ours, name) == getattr(words, name)


def _sentence(vocabulary: list[str], generator: np.random.Generator) -> str:
    return " ".join(generator.choice(vocabulary, generator.integers(0, 13)))


def _fewest_errors(said: Sequence[str], heard: Sequence[str]) -> int:
    """The edit distance: Wagner and Fischer, "The string-to-string correction problem", 1974."""
    above = list(range(len(heard) + 1))
    for row, word in enumerate(said, 1):
        line = [row]
        for column, other in enumerate(heard, 1):
            line.append(min(above[column] + 1, line[-1] + 1, above[column - 1] + (word != other)))
        above = line
    return above[-1]


def _disturbed(sentence: str, generator: np.random.Generator) -> str:
    """Words lost, doubled and replaced."""
    words = []
    for word in sentence.split():
        words += [[], [word, word], ["אחר"], [word], [word], [word]][generator.integers(6)]
    return " ".join(words)
