"""Answers that go round in circles: when to stop one, and what of it is a circle.

Speech repeats words too: OpenSLR 1 has eight times the same word in six seconds. So an answer is a loop only if no
speaker explains it:

1. more than twenty copies of the same tokens in a row, the bound of Qwen3-ASR's own code; decoding stops there;
2. or four copies and more at the end of an answer that had to be cut, since it wrote more tokens than its seconds can
   hold. A speaker who repeats himself comes to an end.

Of a loop the first copy stays: it is the one that may have been said.
"""

import numpy as np

MAX_COPIES = 20
"""So often may the same tokens follow each other in an answer."""

MIN_COPIES_AT_LIMIT = 4
"""With so many at its end an answer that was cut at its limit is a loop."""

MAX_PERIOD = 64
"""Tokens of the longest circle that is looked for: about thirty words of Hebrew with the released tokenizer."""

_PERIODS = np.arange(1, MAX_PERIOD + 1)


class LoopGuard:
    """Watches rows of tokens as they come, all rows and all periods at once.

    `_runs[row, p - 1]` is how many of the row's last tokens equal the token `p` places before them: `p` times the
    copies after the first.
    """

    def __init__(self) -> None:
        self._recent = np.full((0, MAX_PERIOD), -1)  # last tokens of each row, the newest first
        self._runs = np.zeros((0, MAX_PERIOD), np.int64)

    def add_rows(self, num_rows: int) -> None:
        """New rows, without tokens yet, behind the others."""
        self._recent = np.concatenate([self._recent, np.full((num_rows, MAX_PERIOD), -1)])
        self._runs = np.concatenate([self._runs, np.zeros((num_rows, MAX_PERIOD), np.int64)])

    def remove_row(self, row: int) -> None:
        """Let a row go. The last one takes its place."""
        for rows in (self._recent, self._runs):
            rows[row] = rows[-1]
        self._recent, self._runs = self._recent[:-1], self._runs[:-1]

    def see(self, tokens: np.ndarray, *, first_row: int = 0) -> np.ndarray:
        """The next token of each row from `first_row` on, (n,). Returns which rows have become loops, (n,) bool."""
        recent, runs = self._recent[first_row:], self._runs[first_row:]
        runs += 1
        runs *= recent == tokens[:, None]
        recent[:, 1:] = recent[:, :-1]
        recent[:, 0] = tokens
        return np.any(runs >= MAX_COPIES * _PERIODS, axis=1)

    def num_repeated(self, row: int, *, min_copies: int) -> int:
        """How many tokens at a row's end are copies of those before them, if there are `min_copies` in all; else 0."""
        runs = self._runs[row]
        looping = np.flatnonzero(runs >= (min_copies - 1) * _PERIODS)
        return int(runs[looping[0]]) if len(looping) else 0
