"""The gate: whether a model may take the champion's place. Plain functions of evaluations and a recipe's bounds."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from caspi.errors import ResultsError
from caspi.evaluation.comparing import Comparison, compare
from caspi.evaluation.resampling import p_values
from caspi.evaluation.results import Results
from caspi.recipe.gate import Gate

CHAMPION, CANDIDATE = "champion", "candidate"

_CHANCE = 0.05
_ROUNDING = 1e-9  # 0.2 - 0.15 is above 0.05 by 3e-17


@dataclass(frozen=True, slots=True)
class Check:
    """One question of the gate, and its answer."""

    name: str
    """`evaluation`, `champion`, `split`, `test set`, `failures`, `comparison`, `wer`, `hallucination`, `repetition`, or
    a slice such as `source=fleurs`."""

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
    """Hold a candidate to the gate's bounds, and to the champion where there is one.

    Evaluations that cannot be compared are a refusal, too.
    """
    checks = list(_absolute_checks(candidate, gate))
    if champion is None:
        if not gate.has_absolute_bounds:
            note = "there is no champion to compare with, and the gate sets no bound of its own"
            return Verdict((*checks, Check(CHAMPION, True, note)))
        note = "there is no champion to compare with"
        return Verdict((*checks, _failures_check(candidate, None, gate), Check(CHAMPION, True, note)))
    checks.append(_test_set_check(candidate, champion))
    if not checks[-1].passed:
        return Verdict(tuple(checks))
    checks.append(_failures_check(candidate, champion, gate))
    try:
        comparison = compare([champion, candidate], [CHAMPION, CANDIDATE])
    except ResultsError as error:
        return Verdict((*checks, Check("comparison", False, str(error))))
    return Verdict((*checks, *_relative_checks(candidate, champion, comparison, gate)), comparison)


def _absolute_checks(candidate: Results, gate: Gate) -> Iterator[Check]:
    """Bounds that hold whoever the champion is."""
    if candidate.metrics.get("split") == "train":
        yield Check("split", False, "evaluated on train, which models learn by heart; expected test or validation")
    if gate.max_wer is not None:
        wer = candidate.metrics["wer"]
        yield _bounded("wer", f"{wer:.2%}; at most {gate.max_wer:.2%}", wer - gate.max_wer)
    for label, bound in gate.slices.items():
        group, _, name = label.partition("=")
        part = candidate.metrics["slices"].get(group, {}).get(name)
        if part is None:
            known = [f"{group}={name}" for group, parts in candidate.metrics["slices"].items() for name in parts]
            yield Check(label, False, f"the test set has no such slice; it has {', '.join(known)}")
        elif bound.max_wer is not None:
            yield _bounded(label, f"{part['wer']:.2%}; at most {bound.max_wer:.2%}", part["wer"] - bound.max_wer)


def _test_set_check(candidate: Results, champion: Results) -> Check:
    """Whether both were asked about the same: utterances, their texts, and how long their sound is.

    Corpora may differ in the rest: one that grew by training data has another fingerprint, and the same test set.
    """
    new, old = (each.metrics["test_set"]["fingerprint"] for each in (candidate, champion))
    durations_s = [_durations_s(each) for each in (candidate, champion)]
    if new != old:
        return Check(
            "test set",
            False,
            f"the candidate was evaluated on {new[:12]} ({len(durations_s[0])} utterances), the champion on {old[:12]} "
            f"({len(durations_s[1])}; {len(durations_s[0].keys() & durations_s[1].keys())} are in both); "
            "expected the same texts for both",
        )
    other = [each for each, duration_s in durations_s[0].items() if duration_s != durations_s[1][each]]
    if other:
        return Check(
            "test set",
            False,
            f"{len(other)} of {len(durations_s[0])} utterances have the same text and other sound, such as {other[0]}: "
            f"{durations_s[0][other[0]]} s for the candidate, {durations_s[1][other[0]]} s for the champion; "
            "evaluate both on one corpus",
        )
    return Check("test set", True, f"the same for both, {new[:12]}")


def _durations_s(results: Results) -> dict[str, float | None]:
    """Seconds of each utterance, by its id; None where preparing refused it unheard."""
    ids, durations_s = (results.utterances[name].to_pylist() for name in ("utterance_id", "duration_s"))
    return {each: None if found is None else round(found, 3) for each, found in zip(ids, durations_s, strict=True)}


def _failures_check(candidate: Results, champion: Results | None, gate: Gate) -> Check:
    """Whether the candidate answered what the champion did; without one, all of the test set.

    No rate knows of a clip without an answer: a model that dies of what is hard would look better for it.
    """
    if champion is None:
        expected, whose = _in_corpus(candidate), "of the test set"
    else:
        expected, whose = _answered(champion), "that the champion answered"
    lost = sorted(expected - _answered(candidate))
    found = f"{len(lost)} of {len(expected)} clips {whose} have no answer" + (f", such as {lost[0]}" if lost else "")
    excess = len(lost) / max(1, len(expected)) - gate.max_failed
    return _bounded("failures", f"{found}; at most {gate.max_failed:.2%}", excess)


def _in_corpus(results: Results) -> set[str]:
    """The utterances that the model was asked about; rows of no shard are what preparing refused."""
    return set(results.utterances.filter(pc.is_valid(results.utterances["shard"]))["utterance_id"].to_pylist())


def _answered(results: Results) -> set[str]:
    """The utterances that were scored, and the clips without speech that were heard."""
    clips = {each["clip"] for each in results.metrics["hallucination"]["clips"] if each["hypothesis"] is not None}
    return clips | set(_scored(results)["utterance_id"].to_pylist())


def _scored(results: Results) -> pa.Table:
    return results.utterances.filter(pc.is_null(results.utterances["error"]))


def _relative_checks(candidate: Results, champion: Results, comparison: Comparison, gate: Gate) -> Iterator[Check]:
    """The candidate against the champion, on the utterances that both were scored on."""
    yield _not_more_errors(comparison.summary["pairs"][0], gate.max_wer_increase)
    yield _rarer("hallucination", _hallucinated, champion, candidate, gate.max_hallucination_increase)
    yield _rarer("repetition", _repeated, champion, candidate, gate.max_repetition_increase)
    for label, bound in gate.slices.items():
        if bound.max_increase is None:
            continue
        group, _, name = label.partition("=")
        part = comparison.summary["pairs"][0]["slices"].get(group, {}).get(name)
        if part is None:
            yield Check(label, False, "no utterance of it was scored for both; evaluate both again")
            continue
        found = f"{part['wer']:.2%}, the champion's {part['baseline_wer']:.2%}"
        allowed = f"at most {_points(bound.max_increase)} above it"
        yield _bounded(label, f"{found}; {allowed}", part["wer_difference"] - bound.max_increase)


def _not_more_errors(pair: Mapping[str, Any], max_increase: float) -> Check:
    """Worse is what the paired interval shows to be worse, and what is above by more than `max_increase` besides.

    The second is for small test sets, whose interval would let anything through.
    """
    bounds = pair["wer_difference_interval"]
    how_sure = "how sure is not known" if bounds is None else f"95% interval {' to '.join(map(_points, bounds))}"
    difference = pair["wer_difference"]
    found = f"{pair['wer']:.2%}, the champion's {pair['baseline_wer']:.2%}: {_points(difference)} ({how_sure})"
    if bounds is not None and bounds[0] > 0:
        return Check("wer", False, f"{found}, which is worse beyond chance; expected an interval that reaches 0")
    return _bounded("wer", f"{found}; at most {_points(max_increase)}", difference - max_increase)


def _rarer(
    name: str,
    faults: Callable[[Results], dict[str, tuple[str, bool]]],
    champion: Results,
    candidate: Results,
    max_increase: float,
) -> Check:
    """Whether a fault is not more frequent than with the champion, among clips that both were asked about.

    Not by an interval, as for WER: faults are rare, and of two against none it would say that it is sure.
    """
    old, new = faults(champion), faults(candidate)
    common = [clip for clip in old if clip in new]
    if not common:
        return Check(name, False, "not judged: both were never asked about the same clip; evaluate both again")
    before, after = (np.array([each[clip][1] for clip in common], np.int64) for each in (old, new))
    recordings = np.unique([old[clip][0] for clip in common], return_inverse=True)[1]
    p_value = float(p_values(np.bincount(recordings, after - before)[:, np.newaxis])[0])
    difference = float((after - before).mean())
    found = (
        f"{after.mean():.2%}, the champion's {before.mean():.2%}: {_points(difference)} (p {p_value:.2g}), "
        f"of {len(common)} clips"
    )
    if difference > 0 and p_value < _CHANCE:
        return Check(name, False, f"{found}, which is worse beyond chance; expected a p of {_CHANCE} or above")
    return _bounded(name, f"{found}; at most {_points(max_increase)}", difference - max_increase)


def _hallucinated(results: Results) -> dict[str, tuple[str, bool]]:
    """Of each clip without speech, by its id: its recording, and whether words were heard in it."""
    utterances = _scored(results)
    utterances = utterances.filter(pc.equal(utterances["reference_scored"], ""))
    columns = (utterances[name].to_pylist() for name in ("utterance_id", "recording_id", "hypothesis_scored"))
    of_test_set = {clip: (recording, bool(heard)) for clip, recording, heard in zip(*columns, strict=True)}
    made_up = {
        each["clip"]: (each["clip"], any(map(str.isalnum, each["hypothesis"])))
        for each in results.metrics["hallucination"]["clips"]
        if each["hypothesis"] is not None
    }
    return of_test_set | made_up


def _repeated(results: Results) -> dict[str, tuple[str, bool]]:
    """Of each utterance, by its id: its recording, and whether the answer repeats itself."""
    utterances = _scored(results)
    columns = (utterances[name].to_pylist() for name in ("utterance_id", "recording_id", "is_repetition"))
    return {clip: (recording, loops) for clip, recording, loops in zip(*columns, strict=True)}


def _bounded(name: str, explanation: str, excess: float) -> Check:
    """Passed unless something is above its bound."""
    if excess <= _ROUNDING:
        return Check(name, True, explanation)
    return Check(name, False, f"{explanation}; {_points(excess)} too much")


def _points(difference: float) -> str:
    """`+1.20 points`: a difference between percentages is no percentage."""
    return f"{100 * difference:+.2f} points"
