"""`caspi compare`: evaluate what is not evaluated yet, then compare all on the same utterances."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path

from caspi.errors import RequestError
from caspi.evaluation import intervals
from caspi.evaluation.comparing import Comparison, compare
from caspi.evaluation.comparison_report import write_comparison_report
from caspi.evaluation.evaluate import evaluate
from caspi.evaluation.results import Results
from caspi.recipe.sections import Inference

# `tuned=runs/mine/run/model`: a name holds none of the characters that URIs and paths have before their first `=`.
_NAMED = re.compile(r"([\w. -]+)=(.+)")


def compare_systems(
    systems: Sequence[str],
    *,
    output: str | Path,
    corpus: str | Path | None = None,
    split: str = "test",
    limits: Inference | None = None,
    overwrite: bool = False,
    on_progress: Callable[[int, int], None] | None = None,
) -> Comparison:
    """Compare what is named, as `SYSTEM` or `NAME=SYSTEM`, and write comparison.json, .parquet and .html.

    Args:
        systems: folders that `caspi evaluate` wrote, or anything that `open_system` opens; those are evaluated first,
            into OUTPUT/evaluations/NAME.
        corpus: what to evaluate them on.
        limits: batch size and length of answers, as in a recipe's `inference`.
        overwrite: evaluate anew what OUTPUT/evaluations holds already, whatever it is of.
        on_progress: called with the utterances done and those in all, of each evaluation.

    Raises:
        RequestError: one of them cannot be opened or is named like another, or a corpus is missing.
        ResultsError: they were not evaluated on the same texts.
    """
    named = [_named(each) for each in systems]
    names = [name for name, _ in named]
    if len(named) < 2 or len({_folder_name(name) for name in names}) < len(names):
        raise RequestError(
            f"to compare: {', '.join(names)}; expected at least two, each with another name: NAME=SYSTEM gives it one"
        )
    to_evaluate = [name for name, system in named if not _is_evaluation(system)]
    if to_evaluate and corpus is None:
        raise RequestError(f"{to_evaluate[0]}: no evaluation yet; say with --corpus what to evaluate it on")
    output = Path(output)
    results = []
    for name, system in named:
        folder = Path(system)
        if name in to_evaluate:
            assert corpus is not None
            folder = output / "evaluations" / _folder_name(name)
            evaluate(
                system, corpus, output=folder, split=split, limits=limits, overwrite=overwrite, on_progress=on_progress
            )
        results.append(Results.read(folder))
    comparison = compare(results, names)
    comparison.write(output)
    write_comparison_report(output, dict(zip(names, results, strict=True)), comparison.summary)
    return comparison


def describe(comparison: Comparison) -> str:
    """The comparison in a few lines, for the command line."""
    summary = comparison.summary
    left_out = summary["test_set"]["num_left_out"]
    width = max(map(len, comparison.names))
    lines = [
        f"{summary['test_set']['num_utterances']} utterances that all were scored on"
        + (f"; {left_out} others are left out" if left_out else "")
    ]
    for system in summary["systems"]:
        how_sure = intervals.describe(system["wer_interval"], digits=2)
        lines.append(f"{system['name']:<{width}}  WER {system['wer']:.2%} ({how_sure}), CER {system['cer']:.2%}")
    for pair in summary["pairs"]:
        found = pair["wer_difference_interval"]
        how_sure = f"{100 * found[0]:+.2f} to {100 * found[1]:+.2f}" if found else "how sure is not known"
        better = pair["probability_better"]
        lines.append(
            f"{pair['system']} against {pair['baseline']}: {100 * pair['wer_difference']:+.2f} points "
            f"({how_sure}), "
            + (f"better with a probability of {_probability(better)}" if better is not None else "all of one recording")
            + f"; {pair['num_better']} utterances better, {pair['num_worse']} worse"
        )
    return "\n".join(lines)


def _probability(share: float) -> str:
    """10,000 draws tell nothing of the last tenth of a percent."""
    return "over 99.9%" if share > 0.999 else "below 0.1%" if share < 0.001 else f"{share:.1%}"


def _named(system: str) -> tuple[str, str]:
    match = _NAMED.fullmatch(system)
    return (match[1], match[2]) if match else (system, system)


def _is_evaluation(system: str) -> bool:
    return (Path(system) / "metrics.json").is_file()


def _folder_name(name: str) -> str:
    return re.sub(r"[^\w.-]+", "-", name).strip("-.") or "system"
