"""Words against words, and which are heard as which."""

import pytest

from caspi.evaluation.alignment import Confusion, count_confusions, operations, pairs
from caspi.evaluation.metrics import count_errors


@pytest.mark.parametrize(
    ("said", "heard", "expected"),
    [
        ("א ב ג", "א ב ג", "==="),
        ("א ב ג", "א ד", "=SD"),
        ("א ב", "א ג ב", "=I="),
        ("", "א ב", "II"),
        ("א ב", "", "DD"),
        ("", "", ""),
    ],
)
def test_every_word_has_an_operation(said: str, heard: str, expected: str):
    assert operations([said], [heard]) == [expected]


def test_operations_add_up_to_the_counts():
    said, heard = ["א ב ג ד", "ה ו", "", "ז"], ["א ג ד ה", "ו ה ו", "ח", ""]
    counts = count_errors(said, heard)
    found = operations(said, heard)
    assert [each.count("S") for each in found] == counts.substitutions.tolist()
    assert [each.count("D") for each in found] == counts.deletions.tolist()
    assert [each.count("I") for each in found] == counts.insertions.tolist()
    assert [each.count("=") for each in found] == counts.hits.tolist()


def test_pairs_are_what_was_said_and_what_was_heard():
    assert pairs("א ב ג", "א ד ה ג", "=SI=") == [("א", "א"), ("ב", "ד"), ("", "ה"), ("ג", "ג")]


def test_confusions_are_counted_over_all_texts_the_most_frequent_first():
    said = ["כל טוב", "כל היום", "כל הזמן", "שלום"]
    heard = ["קל טוב", "קל היום", "הזמן", "שלום לך"]
    found = count_confusions(said, heard, operations(said, heard))
    assert found.substitutions == (Confusion("כל", "קל", count=2, num_said=3),)
    assert found.deletions == (Confusion("כל", "", count=1, num_said=3),)
    assert found.insertions == (Confusion("", "לך", count=1, num_said=0),)
    assert found.letters == (Confusion("כ", "ק", count=2, num_said=3),)


def test_letters_are_compared_within_similar_words_only():
    said, heard = ["מעט", "חתול"], ["מאת", "כלב"]
    assert count_confusions(said, heard, operations(said, heard)).letters == ()
    found = count_confusions(["מעטפה"], ["מאתפה"], ["S"]).letters
    assert [(each.said, each.heard) for each in found] == [("ט", "ת"), ("ע", "א")]


def test_only_so_many_of_each_kind_are_kept():
    said, heard = [f"א{place}" for place in range(9)], [f"ב{place}" for place in range(9)]
    assert len(count_confusions(said, heard, operations(said, heard), most=4).substitutions) == 4


def test_nothing_is_confused_where_all_is_right():
    found = count_confusions(["א ב"], ["א ב"], ["=="])
    assert (found.substitutions, found.deletions, found.insertions, found.letters) == ((), (), (), ())
