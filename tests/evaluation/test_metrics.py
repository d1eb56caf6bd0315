"""Error rates."""

import jiwer
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from caspi.errors import RequestError
from caspi.evaluation import score
from caspi.evaluation.metrics import align, count_errors, interval

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
    assert result.wer_interval == (wer, wer)


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
    low, high = ours.wer_interval
    assert 0 <= low <= high


@given(WORDS, WORDS)
def test_the_alignment_tells_the_same_errors(reference: str, hypothesis: str):
    kinds = [difference.kind for difference in align(reference, hypothesis)]
    counts = count_errors([reference], [hypothesis])
    for kind in ("substitution", "deletion", "insertion", "hit"):
        assert kinds.count(kind) == getattr(counts, f"{kind}s")[0]


def test_the_interval_is_the_same_each_time_and_contains_the_rate():
    generator = np.random.default_rng(1)
    references = ["א ב ג ד ה"] * 200
    hypotheses = ["א ב ג ד " + ("ה" if generator.random() < 0.5 else "ו") for _ in references]
    first, second = score(references, hypotheses), score(references, hypotheses)
    assert first == second
    low, high = first.wer_interval
    assert low < first.wer < high
    assert high - low == pytest.approx(4 * 0.1 / 200**0.5, rel=0.2)  # per utterance 0 or 0.2: deviation 0.1


def test_utterances_that_err_together_widen_the_interval():
    references = ["א"] * 400
    hypotheses = ["א" if (position // 20) % 2 else "ב" for position in range(400)]
    alone = score(references, hypotheses).wer_interval
    together = score(references, hypotheses, clusters=[position // 20 for position in range(400)]).wer_interval
    assert together[1] - together[0] > 3 * (alone[1] - alone[0])


def test_one_recording_says_nothing_of_the_spread():
    result = score(["א ב", "ג"], ["א", "ג"], clusters=["only", "only"])
    assert result.wer_interval == (result.wer, result.wer)


@pytest.mark.parametrize(("num_recordings", "utterances_each"), [(80, 1), (20, 1), (60, 10), (12, 20), (10, 20)])
def test_the_interval_contains_the_truth_as_often_as_it_says(num_recordings: int, utterances_each: int):
    """1,000 test sets from one world, in which each recording has an error rate of its own, 10% on average."""
    generator = np.random.default_rng(7)
    recordings = np.repeat(np.arange(num_recordings), utterances_each)
    num_covered = 0
    for _ in range(1000):
        lengths = generator.integers(1, 20, len(recordings))
        rates = generator.beta(2, 18, num_recordings)[recordings]
        low, high = interval(generator.binomial(lengths, rates), lengths, clusters=recordings.tolist())
        num_covered += low <= 0.1 <= high
    assert 930 <= num_covered <= 970


def test_the_percentiles_of_few_recordings_would_be_too_narrow():
    """Why the interval is not the usual one: the ends of the middle 95% of replicates."""
    generator = np.random.default_rng(7)
    recordings, num_covered = np.repeat(np.arange(8), 20), 0
    for _ in range(400):
        lengths = generator.integers(1, 20, len(recordings))
        errors = generator.binomial(lengths, generator.beta(2, 18, 8)[recordings])
        drawn = generator.multinomial(8, np.full(8, 1 / 8), 500)
        rates = (drawn @ np.bincount(recordings, errors)) / (drawn @ np.bincount(recordings, lengths))
        low, high = np.quantile(rates, (0.025, 0.975))
        num_covered += low <= 0.1 <= high
    assert num_covered / 400 < 0.92


def test_few_recordings_of_which_one_errs_give_a_bounded_interval_that_starts_at_nothing():
    low, high = interval(np.array([0, 0, 3]), np.array([10, 10, 10]))
    assert (low, round(high, 1)) == (0.0, 0.5)


def test_the_interval_of_invented_words_needs_no_reference_word():
    low, high = interval(np.array([0, 1, 2, 1]), np.zeros(4, np.int64))
    assert low < 4 < high


def test_a_thousand_random_pairs_agree_with_jiwer():
    generator = np.random.default_rng(3)
    vocabulary = ["שלום", "עולם", "בית", "ספר", "ילד", "ילדה", "הלך", "הלכה", "אל", "על"]

    def sentence() -> str:
        return " ".join(generator.choice(vocabulary, generator.integers(0, 13)))

    references = [sentence() for _ in range(1000)]
    hypotheses = [sentence() if generator.random() < 0.3 else _disturbed(each, generator) for each in references]
    ours = score(references, hypotheses)
    words, characters = jiwer.process_words(references, hypotheses), jiwer.process_characters(references, hypotheses)
    assert (ours.wer, ours.cer) == (pytest.approx(words.wer), pytest.approx(characters.cer))
    for name in ("substitutions", "deletions", "insertions", "hits"):
        assert getattr(ours, name) == getattr(words, name)


def _disturbed(sentence: str, generator: np.random.Generator) -> str:
    """Words lost, doubled and replaced."""
    words = []
    for word in sentence.split():
        words += [[], [word, word], ["אחר"], [word], [word], [word]][generator.integers(6)]
    return " ".join(words)
