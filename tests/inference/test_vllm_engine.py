"""What Caspi adds to vLLM: prompts, bounds, who is inside; and what becomes of a vLLM that does not run."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from caspi.errors import EngineError, RequestError
from caspi.inference.engine import Clip, Engine, drain
from caspi.inference.vllm_engine import VllmEngine
from caspi.inference.vllm_process import News, VllmProcess
from caspi.model import load_prompter
from caspi.recipe.sections import Inference

LIMITS = Inference(max_batch_s=4, max_tokens_per_s=2)


class Double:
    """A vLLM that says `שלום` to everything, a token a step, and tells what it was asked."""

    max_tokens = 200

    def __init__(self, model: Path) -> None:
        prompter = load_prompter(model)
        self._answer = [*prompter.text_ids("שלום"), prompter.end_of_turn_id]
        self._left: dict[int, list[int]] = {}
        self.asked: dict[int, dict[str, Any]] = {}
        self.scores: dict[int, float] | None = None

    def add(self, number: int, **asked: Any) -> None:
        self._left[number] = list(self._answer)
        self.asked[number] = asked

    def drop(self, number: int) -> None:
        del self._left[number]

    def news(self, *, patience_s: float) -> Iterator[News]:
        for number, ids in list(self._left.items()):
            token = ids.pop(0)
            if not ids:
                del self._left[number]
            yield News(number, [token], [self.scores] if self.scores else [], None if ids else "stop")


@pytest.fixture
def double(toy_model: Path) -> Double:
    return Double(toy_model)


@pytest.fixture
def engine(double: Double, toy_model: Path) -> VllmEngine:
    return VllmEngine(double, load_prompter(toy_model), LIMITS)  # type: ignore[arg-type]


def clip(seconds: float, **asked: Any) -> Clip:
    return Clip.of(np.zeros(int(16_000 * seconds), np.float32), **asked)


def test_it_is_an_engine(engine: VllmEngine):
    assert isinstance(engine, Engine)


def test_clips_come_in_while_others_run_and_fill_the_room_by_their_seconds(engine: VllmEngine):
    engine.start([clip(2)])
    engine.step()
    assert engine.fill == 0.5
    assert engine.fits([clip(1), clip(1)])
    assert not engine.fits([clip(1), clip(1.5)])


def test_a_clip_longer_than_the_room_goes_alone(engine: VllmEngine):
    assert engine.fits([clip(5)])
    engine.start([clip(1)])
    assert not engine.fits([clip(5)])


def test_text_language_and_finish_come_back(engine: VllmEngine):
    (answer,) = drain(engine, [clip(1, language="he")])
    assert (answer.text, answer.language, answer.duration_s, answer.finish) == ("שלום", "Hebrew", 1.0, "stop")


def test_a_dropped_clip_has_no_answer(engine: VllmEngine):
    dropped, kept = engine.start([clip(1), clip(1)])
    engine.step()
    engine.drop([dropped])
    assert engine.fill == 0.25
    answers: dict[int, Any] = {}
    while not answers:
        answers |= engine.step()
    assert list(answers) == [kept]


def test_the_prompt_has_one_placeholder_context_and_the_forced_language(
    engine: VllmEngine, double: Double, toy_model: Path
):
    prompter = load_prompter(toy_model)
    (number,) = engine.start([clip(3, language="he", prompt="מה")])
    assert double.asked[number]["prompt_ids"] == prompter.prompt(1, context="מה", language="Hebrew")
    assert double.asked[number]["max_new_tokens"] == 16 + 3 * 2


def test_a_short_clip_is_filled_to_half_a_second(engine: VllmEngine, double: Double):
    (number,) = engine.start([clip(0.1)])
    assert len(double.asked[number]["samples"]) == 8_000


def test_a_clip_that_vllm_has_no_room_for_is_refused(engine: VllmEngine):
    with pytest.raises(RequestError, match=r"vLLM has room for 200 with the answer"):
        engine.start([clip(20)])
    assert engine.fill == 0


def test_an_environment_without_vllm_is_an_error_that_ends(capfd: pytest.CaptureFixture[str]):
    with pytest.raises(EngineError, match="exit code 1"):
        VllmProcess({}, python=Path(sys.executable))
    assert "No module named 'vllm'" in capfd.readouterr().err


def test_an_interpreter_that_is_not_there_is_named():
    with pytest.raises(EngineError, match=r"/no/python: cannot be run: .*CASPI_VLLM_PYTHON"):
        VllmProcess({}, python=Path("/no/python"))


def test_a_loop_is_stopped_and_cut(engine: VllmEngine, double: Double):
    double._answer = double._answer[:-1] * 200
    (answer,) = drain(engine, [clip(1)])
    assert (answer.text, answer.finish) == ("שלום", "repetition")
    assert double._left == {}


def test_log_probabilities_are_those_of_the_text(double: Double, engine: VllmEngine):
    double.scores = {token: -0.5 for token in double._answer}
    described = Clip(np.zeros(16_000, np.float32), 1.0, "he", with_log_probs=True)
    (answer,) = drain(engine, [described])
    assert answer.log_probs is not None
    assert b"".join(each.token for each in answer.log_probs).decode() == "שלום"
    assert {each.log_prob for each in answer.log_probs} == {-0.5}
