"""Engines that compute something else than transformers are found out before their first request."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from caspi.errors import EngineError
from caspi.inference import parity
from caspi.inference.parity import Answer, difference
from caspi.inference.vllm_engine import VllmEngine
from caspi.inference.vllm_process import News
from caspi.model import load_prompter, num_audio_tokens
from caspi.recipe.sections import Inference

EXPECTED = Answer([7, 8, 2], [{7: -0.1, 9: -3.0}, {8: -0.70, 6: -0.71}, {2: -0.2, 5: -2.0}])


def test_an_answer_within_rounding_is_the_same():
    answer = Answer([7, 8, 2], [{7: -0.11, 9: -3.01}, {8: -0.71, 6: -0.72}, {2: -0.2, 5: -2.0}])
    assert difference(answer, EXPECTED, tolerance=0.02) is None


def test_answers_may_part_where_two_tokens_are_equally_likely():
    answer = Answer([7, 6, 5, 5], [{7: -0.1, 9: -3.0}, {8: -0.71, 6: -0.70}, {5: -0.1}, {5: -0.1}])
    assert difference(answer, EXPECTED, tolerance=0.02) is None


def test_answers_may_not_part_elsewhere():
    answer = Answer([9, 8, 2], EXPECTED.scores)
    assert difference(answer, EXPECTED, tolerance=0.02) == "at step 0 it writes token 9 for 7"


def test_the_same_tokens_with_other_probabilities_are_another_model():
    answer = Answer([7, 8, 2], [EXPECTED.scores[0], {8: -0.6, 6: -0.75}, EXPECTED.scores[2]])
    assert (
        difference(answer, EXPECTED, tolerance=0.02)
        == "at step 1 the log probability of token 8 is -0.6000 for -0.7000"
    )


def test_a_likely_token_that_is_missing_is_a_difference():
    answer = Answer([7, 8, 2], [{7: -0.1}, *EXPECTED.scores[1:]])
    assert "token 9 is not among its likeliest for -3.0000" in str(difference(answer, EXPECTED, tolerance=0.02))


def test_an_answer_that_goes_on_is_a_difference():
    answer = Answer([7, 8, 2, 3], [*EXPECTED.scores, {3: -0.1}])
    assert difference(answer, EXPECTED, tolerance=0.02) == "it writes 4 tokens for 3"


class Double:
    """A decoder that gives the answer it is told to give, a token a step."""

    def __init__(self, answer: Answer) -> None:
        self._steps = list(zip(answer.ids, answer.scores, strict=True))

    def add(self, number: int, **asked: Any) -> None:
        self.asked = asked

    def news(self, *, patience_s: float) -> Iterator[News]:
        token, scores = self._steps.pop(0)
        yield News(0, [token], [scores], None if self._steps else "length")


def prove(answer: Answer, model: Path, cache: Path) -> None:
    engine = VllmEngine(Double(answer), load_prompter(model), Inference())  # type: ignore[arg-type]
    engine.prove(model, dtype="float32", cache=cache)


def reference(model: Path, cache: Path) -> Answer:
    prompter = load_prompter(model)
    prompt = prompter.prompt(num_audio_tokens(len(parity.clip())))
    return parity.reference(model, prompt, [prompter.end_of_turn_id, prompter.pad_id], cache=cache)


def test_an_engine_that_differs_is_refused_with_a_reason(toy_model: Path, tmp_path: Path):
    right = reference(toy_model, tmp_path)
    prove(right, toy_model, tmp_path)
    wrong = Answer(right.ids, [{token: score * 1.1 for token, score in step.items()} for step in right.scores])
    with pytest.raises(EngineError, match=r"`vllm` in float32 does not compute what transformers does: at step 0"):
        prove(wrong, toy_model, tmp_path)


def test_the_reference_of_a_model_is_computed_once(toy_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    first = reference(toy_model, tmp_path)
    monkeypatch.setattr(parity, "load", lambda _: pytest.fail("the model was loaded again"))
    assert reference(toy_model, tmp_path) == first


def test_a_damaged_reference_is_made_again(toy_model: Path, tmp_path: Path):
    first = reference(toy_model, tmp_path)
    (kept,) = tmp_path.iterdir()
    kept.write_text(json.dumps({"ids": [1]}))
    assert reference(toy_model, tmp_path) == first
    assert json.loads(kept.read_text())["ids"] == first.ids


def test_the_clip_is_the_same_everywhere():
    sound = parity.clip()
    assert sound.dtype == np.float32 and len(sound) == 36_800
    assert 0.1 < np.abs(sound).max() < 0.5
