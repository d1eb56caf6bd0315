"""The gate: whether a model may take the champion's place. Plain functions of evaluations and a recipe's bounds."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
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
    """`evaluation`, `test set`, `wer`, `hallucination on silence`, `repetition`, or a slice such as `source=fleurs`."""

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
    for name, select, what in (
        ("hallucination on silence", _hallucinated, "of the utterances without speech are answered with words"),
        ("repetition", _repeated, "of the answers repeat themselves"),
    ):
        rates = _rates(select, champion, candidate)
        if rates is None:
            yield Check(name, True, "not judged: the test set has no utterance without speech")
        else:
            check = _not_worse(name, *rates, gate.max_hallucination_increase)
            yield Check(name, check.passed, f"{check.explanation} {what}")
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


def _rates(select: Any, champion: Results, candidate: Results) -> tuple[float, float, tuple[float, float]] | None:
    """The champion's rate, the candidate's, and the paired interval of what lies between; None without utterances."""
    (old, recordings), (new, _) = (select(each.utterances.sort_by("utterance_id")) for each in (champion, candidate))
    if not len(old):
        return None
    return float(old.mean()), float(new.mean()), difference_interval(new - old, np.ones_like(old), clusters=recordings)


def _hallucinated(utterances: pa.Table) -> tuple[np.ndarray, list[str]]:
    """Whether words were heard, 0 or 1, in each utterance without speech; and its recording."""
    silent = utterances.filter(pc.equal(utterances["reference_scored"], ""))
    heard = pc.not_equal(pc.fill_null(silent["hypothesis_scored"], ""), "")
    return heard.to_numpy().astype(np.int64), silent["recording_id"].to_pylist()


def _repeated(utterances: pa.Table) -> tuple[np.ndarray, list[str]]:
    """Whether the answer repeats itself, 0 or 1, in each utterance; and its recording."""
    repeated = pc.fill_null(utterances["is_repetition"], False)
    return repeated.to_numpy().astype(np.int64), utterances["recording_id"].to_pylist()


def _points(difference: float) -> str:
    """`+1.20 points`: a difference between percentages is no percentage."""
    return f"{100 * difference:+.2f} points"


def _excess(excess: float) -> str:
    return f"; {_points(excess)} too much" if excess > 0 else ""
