"""Greedy decoding of many prompts at once, a token for each per step; each ends by itself.

Legend: n rows in use, V vocabulary.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from caspi.inference.decoder import Decoder
from caspi.inference.repetition import MIN_COPIES_AT_LIMIT, LoopGuard
from caspi.inference.transcription import Finish


@dataclass(frozen=True, slots=True)
class Prompt:
    """What one answer follows."""

    embeddings: torch.Tensor  # (tokens, H)
    max_new_tokens: int
    with_log_probs: bool = False

    @property
    def num_positions(self) -> int:
        """Tokens of the prompt and of its longest answer."""
        return len(self.embeddings) + self.max_new_tokens


@dataclass(frozen=True, slots=True)
class Continuation:
    """The tokens that follow a prompt."""

    ids: list[int]  # without the end
    finish: Finish
    log_probs: list[float] | None  # of each of them; None: nobody asked


@dataclass(slots=True)
class _Row:
    number: int
    num_positions: int
    log_probs: list[float] | None


class GreedySearch:
    """Always the likeliest token, as by transformers' `generate(do_sample=False)`, until a row ends, has as many as it
    may, or goes round in circles.

    On the host each step is a few array operations over all rows.
    """

    def __init__(self, model: Any, *, num_positions: int) -> None:
        """`num_positions`: how many the cache has room for, rows times the longest of them."""
        self._decoder = Decoder(model, num_positions=num_positions)
        self._ends = np.array(model.generation_config.eos_token_id)
        self._guard = LoopGuard()
        self._next_number = 0
        self._rows: list[_Row] = []
        # Of each row. Those that are done are still there until the next step.
        self._tokens = np.zeros((0, 1), np.int64)  # (n, longest answer)
        self._counts = np.zeros(0, np.int64)
        self._limits = np.zeros(0, np.int64)
        self._is_done = np.zeros(0, bool)

    @property
    def num_positions(self) -> list[int]:
        """What each row inside takes at most."""
        return [row.num_positions for row in self._rows]

    @torch.inference_mode()
    def start(self, prompts: Sequence[Prompt]) -> list[int]:
        """Add rows, which must fit. Returns a number for each."""
        first, added = len(self._rows), len(prompts)
        logits = self._decoder.prefill(
            torch.cat([prompt.embeddings for prompt in prompts]),
            [len(prompt.embeddings) for prompt in prompts],
            width=max([*self.num_positions, *(prompt.num_positions for prompt in prompts)]),
        )
        numbers = list(range(self._next_number, self._next_number + added))
        self._next_number += added
        self._rows += [
            _Row(number, prompt.num_positions, [] if prompt.with_log_probs else None)
            for number, prompt in zip(numbers, prompts, strict=True)
        ]
        limits = np.array([prompt.max_new_tokens for prompt in prompts])
        longest = max(self._tokens.shape[1], int(limits.max()))
        tokens = np.zeros((first + added, longest), np.int64)
        tokens[:first, : self._tokens.shape[1]] = self._tokens
        self._tokens = tokens
        self._counts = np.concatenate([self._counts, np.zeros(added, np.int64)])
        self._limits = np.concatenate([self._limits, limits])
        self._is_done = np.concatenate([self._is_done, np.zeros(added, bool)])
        self._guard.add_rows(added)
        self._choose(logits, first_row=first)
        return numbers

    @torch.inference_mode()
    def step(self) -> list[tuple[int, Continuation]]:
        """One more token for each row. Returns those that are done, which are inside no more."""
        if self._rows and not self._is_done.any():  # the first token, which `start` has found, may have been the last
            last = self._tokens[np.arange(len(self._rows)), self._counts - 1]
            self._choose(self._decoder.step(torch.from_numpy(last)))
        finished = []
        for row in self._from_behind(np.flatnonzero(self._is_done).tolist()):
            finished.append((self._rows[row].number, self._continuation(row)))
            self._remove(row)
        return finished

    @torch.inference_mode()
    def drop(self, numbers: Collection[int]) -> None:
        """Forget rows."""
        for row in self._from_behind(place for place, row in enumerate(self._rows) if row.number in numbers):
            self._remove(row)

    def _choose(self, logits: torch.Tensor, *, first_row: int = 0) -> None:
        """The likeliest token for each row from `first_row` on, and what that means for it."""
        chosen = logits.argmax(-1)
        tokens = chosen.cpu().numpy()
        rows = slice(first_row, None)
        self._tokens[np.arange(first_row, len(self._rows)), self._counts[rows]] = tokens
        self._counts[rows] += 1
        is_end = np.isin(tokens, self._ends)
        is_full = self._counts[rows] >= self._limits[rows]
        self._is_done[rows] = is_end | is_full | self._guard.see(tokens, first_row=first_row)
        asked = [place for place, row in enumerate(self._rows[rows]) if row.log_probs is not None]
        if asked:
            log_probs = logits[asked].float().log_softmax(-1).gather(-1, chosen[asked].unsqueeze(-1)).squeeze(-1)
            for place, log_prob in zip(asked, log_probs.tolist(), strict=True):
                self._rows[first_row + place].log_probs.append(log_prob)  # type: ignore[union-attr]

    def _continuation(self, row: int) -> Continuation:
        """What a row that is done has come to."""
        ids = self._tokens[row, : self._counts[row]].tolist()
        finish: Finish = "length"
        if ids[-1] in self._ends:
            finish = "stop"
            ids.pop()
        elif num_repeated := self._guard.num_repeated(row, min_copies=MIN_COPIES_AT_LIMIT):
            finish = "repetition"
            del ids[-num_repeated:]
        log_probs = self._rows[row].log_probs
        return Continuation(ids, finish, None if log_probs is None else log_probs[: len(ids)])

    def _remove(self, row: int) -> None:
        """Let a row go. The last one takes its place."""
        self._decoder.remove(row)
        self._guard.remove_row(row)
        self._rows[row] = self._rows[-1]
        del self._rows[-1]
        for of_rows in (self._tokens, self._counts, self._limits, self._is_done):
            of_rows[row] = of_rows[-1]
        self._tokens, self._counts = self._tokens[:-1], self._counts[:-1]
        self._limits, self._is_done = self._limits[:-1], self._is_done[:-1]

    @staticmethod
    def _from_behind(rows: Iterable[int]) -> list[int]:
        """In an order in which rows can be removed, as the last one takes the place of each."""
        return sorted(rows, reverse=True)
