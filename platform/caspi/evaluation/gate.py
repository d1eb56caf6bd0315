"""The gate: whether a model may take the champion's place. Plain functions of evaluations and a recipe's bounds."""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow.compute as pc

from caspi.evaluation.comparing import Comparison, compare
from caspi.evaluation.metrics import difference_interval
from caspi.evaluation.results import Results
from caspi.recipe.gate import Gate

CHAMPION, CANDIDATE = "champion", "candidate"


@dataclass(frozen=True, slots=True)
class Check:
    """One question of the gate, and its answer."""

    name: str
    """`evaluation`, `test set`, `wer`, `hallucination`, `repetition`, or a slice such as `source=fleurs`."""

    passed: bool

    explanation: str
    """What was found and what is allowed, in numbers."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """All questions and answers. The gate opens when every one is passed."""

    checks: tuple[Check, ...]
    comparison: Comparison | None = None

    @property
    def passed(self) -> bool:
        return all(check.passed for check in self.checks)

    @property
    def refusals(self) -> list[str]:
        return [f"{check.name}: {check.explanation}" for check in self.checks if not check.passed]

    def to_dict(self) -> dict[str, Any]:
        return {"passed": self.passed, "checks": [asdict(check) for check in self.checks]}


def judge(candidate: Results, champion: Results | None, gate: Gate) -> Verdict:
    """Hold a candidate to the gate's bounds, and to the champion where there is one."""
    checks = list(_absolute_checks(candidate, gate))
    if champion is None:
        note = "there is no champion to compare with" + ("" if checks else ", and the gate sets no bound of its own")
        return Verdict((*checks, Check(CHAMPION, True, note)))
    same = _test_set_check(candidate, champion)
    if not same.passed:
        return Verdict((*checks, same))
    comparison = compare([champion, candidate], [CHAMPION, CANDIDATE])
    return Verdict((*checks, same, *_relative_checks(candidate, champion, comparison, gate)), comparison)


def _absolute_checks(candidate: Results, gate: Gate) -> Iterator[Check]:
    """Bounds that hold whoever the champion is."""
    if gate.max_wer is not None:
        wer = candidate.metrics["wer"]
        yield Check("wer", wer <= gate.max_wer, f"{wer:.2%}; at most {gate.max_wer:.2%}{_excess(wer - gate.max_wer)}")
    for label, bound in gate.slices.items():
        group, _, name = label.partition("=")
        part = candidate.metrics["slices"].get(group, {}).get(name)
        if part is None:
            known = [f"{group}={name}" for group, parts in candidate.metrics["slices"].items() for name in parts]
            yield Check(label, False, f"the test set has no such slice; it has {', '.join(known)}")
        elif bound.max_wer is not None:
            excess = part["wer"] - bound.max_wer
            yield Check(label, excess <= 0, f"{part['wer']:.2%}; at most {bound.max_wer:.2%}{_excess(excess)}")


def _test_set_check(candidate: Results, champion: Results) -> Check:
    new, old = (each.metrics["test_set"]["fingerprint"] for each in (candidate, champion))
    if new == old:
        return Check("test set", True, f"the same for both, {new[:12]}")
    ids = [set(each.utterances["utterance_id"].to_pylist()) for each in (candidate, champion)]
    return Check(
        "test set",
        False,
        f"the candidate was evaluated on {new[:12]} ({len(ids[0])} utterances), the champion on {old[:12]} "
        f"({len(ids[1])}; {len(ids[0] & ids[1])} are in both); expected the same texts for both",
    )


def _relative_checks(candidate: Results, champion: Results, comparison: Comparison, gate: Gate) -> Iterator[Check]:
    """The candidate against the champion, on the utterances that both were scored on."""
    pair = comparison.summary["pairs"][0]
    yield _not_worse("wer", pair["baseline_wer"], pair["wer"], pair["wer_difference_interval"], gate.max_wer_increase)
    yield _rarer("hallucination", _hallucinated, champion, candidate, gate.max_hallucination_increase)
    yield _rarer("repetition", _repeated, champion, candidate, gate.max_repetition_increase)
    for label, bound in gate.slices.items():
        group, _, name = label.partition("=")
        part = pair["slices"].get(group, {}).get(name)
        if part is not None and bound.max_increase is not None:
            excess = part["wer_difference"] - bound.max_increase
            found = f"{part['wer']:.2%}, the champion's {part['baseline_wer']:.2%}"
            allowed = f"at most {_points(bound.max_increase)} above it"
            yield Check(label, excess <= 0, f"{found}; {allowed}{_excess(excess)}")


def _not_worse(name: str, old: float, new: float, bounds: tuple[float, float], max_increase: float) -> Check:
    """Worse is what the paired interval shows to be worse, and what is above by more than `max_increase` besides.

    The second is for small test sets, whose interval would let anything through.
    """
    difference, (low, high) = new - old, bounds
    found = (
        f"{new:.2%}, the champion's {old:.2%}: {_points(difference)} (95% interval {_points(low)} to {_points(high)})"
    )
    if low > 0:
        return Check(name, False, f"{found}, which is worse beyond chance; expected an interval that reaches 0")
    excess = difference - max_increase
    return Check(name, excess <= 0, f"{found}; at most {_points(max_increase)}{_excess(excess)}")


def _rarer(
    name: str,
    faults: Callable[[Results], dict[str, tuple[str, bool]]],
    champion: Results,
    candidate: Results,
    max_increase: float,
) -> Check:
    """Whether a fault is not more frequent than with the champion, among clips that both were asked about."""
    old, new = faults(champion), faults(candidate)
    common = [clip for clip in old if clip in new]
    if not common:
        return Check(name, True, "not judged: both were never asked about the same clip")
    before, after = (np.array([each[clip][1] for clip in common], np.int64) for each in (old, new))
    bounds = difference_interval(after - before, np.ones_like(before), clusters=[old[clip][0] for clip in common])
    check = _not_worse(name, float(before.mean()), float(after.mean()), bounds, max_increase)
    return Check(name, check.passed, f"{check.explanation}, of {len(common)} clips")


def _hallucinated(results: Results) -> dict[str, tuple[str, bool]]:
    """Of each clip without speech, by its id: its recording, and whether words were heard in it."""
    utterances = results.utterances.filter(pc.equal(results.utterances["reference_scored"], ""))
    columns = (utterances[name].to_pylist() for name in ("utterance_id", "recording_id", "hypothesis_scored"))
    of_test_set = {clip: (recording, bool(heard)) for clip, recording, heard in zip(*columns, strict=True)}
    made_up = {
        each["clip"]: (each["clip"], any(map(str.isalnum, each["hypothesis"])))
        for each in results.metrics["hallucination"]["clips"]
    }
    return of_test_set | made_up


def _repeated(results: Results) -> dict[str, tuple[str, bool]]:
    """Of each utterance, by its id: its recording, and whether the answer repeats itself."""
    columns = (results.utterances[name].to_pylist() for name in ("utterance_id", "recording_id", "is_repetition"))
    return {clip: (recording, bool(loops)) for clip, recording, loops in zip(*columns, strict=True)}


def _points(difference: float) -> str:
    """`+1.20 points`: a difference between percentages is no percentage."""
    return f"{100 * difference:+.2f} points"


def _excess(excess: float) -> str:
    return f"; {_points(excess)} too much" if excess > 0 else ""
