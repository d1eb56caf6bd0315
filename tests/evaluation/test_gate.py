"""Who may take the champion's place."""

from typing import Any

import pytest

from caspi.errors import ResultsError
from caspi.evaluation.gate import Verdict, judge
from caspi.recipe.gate import Gate, SliceBound
from tests.evaluation.made_up import Answers, evaluated

SAID = "אחת שתיים שלוש ארבע חמש שש שבע שמונה תשע עשר"


def wrong_in(num_wrong: int, *, num_utterances: int = 100) -> Answers:
    """A test set of ten words an utterance, of which so many utterances have one heard wrong."""
    return {f"u{n:03d}": (SAID, SAID.replace("אחת", "טעות") if n < num_wrong else SAID) for n in range(num_utterances)}


def check(verdict: Verdict, name: str) -> tuple[bool, str]:
    (found,) = (each for each in verdict.checks if each.name == name)
    return found.passed, found.explanation


def test_a_better_model_passes():
    verdict = judge(evaluated(wrong_in(20)), evaluated(wrong_in(60)), Gate())
    assert verdict.passed
    assert {each.name for each in verdict.checks} == {"test set", "wer", "hallucination", "repetition"}
    assert check(verdict, "wer")[1].startswith("2.00%, the champion's 6.00%: -4.00 points (95% interval -")


def test_the_same_model_passes():
    assert judge(evaluated(wrong_in(20)), evaluated(wrong_in(20)), Gate()).passed


def test_a_worse_model_is_refused_and_told_by_how_much():
    verdict = judge(evaluated(wrong_in(60)), evaluated(wrong_in(20)), Gate())
    passed, explanation = check(verdict, "wer")
    assert not passed
    assert "6.00%, the champion's 2.00%: +4.00 points" in explanation
    assert "worse beyond chance" in explanation
    assert verdict.refusals == [f"wer: {explanation}"]
    assert verdict.to_dict()["passed"] is False


def test_a_difference_that_may_be_chance_passes_unless_it_is_large():
    champion, candidate = wrong_in(5), wrong_in(0) | {f"u{n:03d}": (SAID, f"לא {SAID}") for n in range(90, 97)}
    assert judge(evaluated(candidate), evaluated(champion), Gate()).passed
    verdict = judge(evaluated(candidate), evaluated(champion), Gate(max_wer_increase=0.001))
    assert check(verdict, "wer") == (False, check(verdict, "wer")[1])
    assert check(verdict, "wer")[1].endswith("at most +0.10 points; +0.10 points too much")


def test_another_test_set_is_refused_and_nothing_is_compared():
    for other in (wrong_in(20, num_utterances=90), wrong_in(20) | {"u000": ("משהו אחר", "משהו אחר")}):
        verdict = judge(evaluated(wrong_in(0)), evaluated(other), Gate())
        assert [each.name for each in verdict.checks] == ["test set"]
        assert not verdict.passed
    assert "are in both" in verdict.refusals[0]


def test_words_for_silence_are_refused_however_good_the_rest_is():
    silent = wrong_in(0) | {f"s{n}": ("...", "תודה" if n else "") for n in range(5)}
    quiet = wrong_in(60) | {f"s{n}": ("...", "") for n in range(5)}
    verdict = judge(evaluated(silent), evaluated(quiet), Gate())
    assert check(verdict, "hallucination")[0] is False
    assert "66.67%, the champion's 0.00%" in check(verdict, "hallucination")[1]  # 4 of 5, and a clip that all hear
    assert check(verdict, "wer")[0] is True
    assert judge(evaluated(quiet), evaluated(silent), Gate(max_wer_increase=1)).passed is False, "in WER alone"


def test_clips_without_speech_count_too():
    candidate = evaluated(wrong_in(0), heard_in_silence=["תודה רבה", "", "", ""])
    champion = evaluated(wrong_in(0), heard_in_silence=["", "", "", "..."])
    assert check(judge(candidate, champion, Gate()), "hallucination") == (
        False, check(judge(candidate, champion, Gate()), "hallucination")[1]
    )  # fmt: skip
    assert judge(candidate, champion, Gate(max_hallucination_increase=0.3)).passed
    assert judge(champion, candidate, Gate()).passed


def test_answers_that_repeat_themselves_are_refused():
    loop = wrong_in(0) | {f"u{n:03d}": (SAID, "שלום " * 12) for n in range(3)}
    verdict = judge(evaluated(loop), evaluated(wrong_in(0)), Gate(max_wer_increase=1, max_repetition_increase=0.01))
    assert "3.00%, the champion's 0.00%" in check(verdict, "repetition")[1]
    assert check(verdict, "repetition")[0] is False


def test_a_named_slice_must_keep_within_its_bounds():
    sources = {f"u{n:03d}": "phone" if n < 20 else "studio" for n in range(100)}
    champion = evaluated(wrong_in(0) | {f"u{n:03d}": (SAID, "") for n in range(20, 30)}, sources=sources)
    candidate = evaluated(wrong_in(10), sources=sources)

    def phone(**bound: Any) -> tuple[bool, str]:
        return check(judge(candidate, champion, Gate(slices={"source=phone": SliceBound(**bound)})), "source=phone")

    assert judge(candidate, champion, Gate()).passed, "better over all"
    assert phone(max_increase=0.06) == (True, "5.00%, the champion's 0.00%; at most +6.00 points above it")
    assert phone(max_increase=0.02)[0] is False
    assert phone(max_increase=0.02)[1].endswith("at most +2.00 points above it; +3.00 points too much")
    assert phone(max_wer=0.04) == (False, "5.00%; at most 4.00%; +1.00 points too much")
    assert phone(max_wer=0.05) == (True, "5.00%; at most 5.00%")


def test_a_slice_that_the_test_set_lacks_is_refused():
    verdict = judge(evaluated(wrong_in(0)), None, Gate(slices={"source=phone": SliceBound(max_increase=0.1)}))
    assert check(verdict, "source=phone")[0] is False
    assert "it has source=crowd" in check(verdict, "source=phone")[1]


def test_the_first_model_is_held_to_absolute_bounds_alone():
    assert judge(evaluated(wrong_in(100)), None, Gate()).passed
    assert judge(evaluated(wrong_in(100)), None, Gate(max_wer=0.1)).passed
    verdict = judge(evaluated(wrong_in(100)), None, Gate(max_wer=0.05))
    assert verdict.refusals == ["wer: 10.00%; at most 5.00%; +5.00 points too much"]


def test_other_normalizers_are_not_compared():
    with pytest.raises(ResultsError, match="normalized differently"):
        judge(evaluated(wrong_in(0)), evaluated(wrong_in(0), normalizer="another"), Gate())
