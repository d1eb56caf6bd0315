"""What is a loop, and what a speaker may say."""

from collections.abc import Sequence

import numpy as np
import pytest

from caspi.inference.repetition import MAX_COPIES, MIN_COPIES_AT_LIMIT, LoopGuard


def see(guard: LoopGuard, ids: Sequence[int]) -> int | None:
    """Give one row tokens; returns after how many it is a loop."""
    guard.add_rows(1)
    for number, token in enumerate(ids, start=1):
        if guard.see(np.array([token]))[0]:
            return number
    return None


@pytest.mark.parametrize("phrase", [[7], [7, 8], [5, 6, 5, 7], list(range(18))], ids=len)
def test_more_than_twenty_copies_are_a_loop_and_twenty_are_not(phrase: list[int]) -> None:
    assert see(LoopGuard(), [1, 2, *phrase * MAX_COPIES, 3, 4]) is None
    assert see(LoopGuard(), [1, 2, *phrase * 30]) == 2 + len(phrase) * (MAX_COPIES + 1)


def test_of_a_loop_the_first_copy_stays() -> None:
    guard, ids = LoopGuard(), [1, 2, *[5, 6, 7] * 21]
    see(guard, ids)
    assert ids[: -guard.num_repeated(0, min_copies=MIN_COPIES_AT_LIMIT)] == [1, 2, 5, 6, 7]


def test_an_answer_that_was_cut_within_a_copy_loses_that_too() -> None:
    guard, ids = LoopGuard(), [1, 2, *[5, 6, 7] * 4, 5]
    see(guard, ids)
    assert ids[: -guard.num_repeated(0, min_copies=MIN_COPIES_AT_LIMIT)] == [1, 2, 5, 6, 7]


def test_three_copies_at_the_end_are_speech_even_where_an_answer_was_cut() -> None:
    guard = LoopGuard()
    see(guard, [1, *[5, 6] * 3])
    assert guard.num_repeated(0, min_copies=MIN_COPIES_AT_LIMIT) == 0


def test_rows_are_watched_apart_and_the_last_takes_the_place_of_one_that_leaves() -> None:
    guard = LoopGuard()
    guard.add_rows(2)
    for number in range(15):
        guard.see(np.array([number, 9]))
    guard.add_rows(1)
    guard.remove_row(0)  # now: the new one, and the one of nines
    assert guard.see(np.array([4, 9])).tolist() == [False, False]
    for _ in range(4):
        assert not guard.see(np.array([4, 9])).any()
    assert guard.see(np.array([4, 9])).tolist() == [False, True]
    assert guard.see(np.array([9]), first_row=1).tolist() == [True]
