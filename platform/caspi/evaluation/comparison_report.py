"""comparison.html: several systems on the same utterances as one page, with all their answers side by side."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from caspi.evaluation.report import confusions, fill, highest_end
from caspi.evaluation.results import Results
from caspi.evaluation.sound import Sound, collect_sound

_CLEAR_P_VALUE = 0.05


def write_comparison_report(folder: str | Path, systems: Mapping[str, Results], summary: Mapping[str, Any]) -> Path:
    """Write `folder/comparison.html`, and beside it the sound, where that is more than fits into a page.

    Args:
        systems: the evaluations by the names under which they were compared, in that order.
        summary: what comparison.json holds.
    """
    path = Path(folder) / "comparison.html"
    path.parent.mkdir(parents=True, exist_ok=True)
    sound = collect_sound(next(iter(systems.values())), path)
    path.write_text(render_comparison(systems, summary, sound), encoding="utf-8")
    return path


def render_comparison(systems: Mapping[str, Results], summary: Mapping[str, Any], sound: Sound) -> str:
    """The page as HTML."""
    slices = _slices(summary)
    return fill(
        "comparison.html.j2",
        systems,
        sound,
        names=list(systems),
        summary=summary,
        verdict=verdict(summary),
        slices=slices,
        num_parts=sum(part["p_value_holm"] is not None for parts in slices.values() for part in parts.values()),
        highest=max((wer for parts in slices.values() for part in parts.values() for wer in part["wers"]), default=0.0),
        highest_end=highest_end(summary["systems"]),
        confusions={name: confusions(each) for name, each in systems.items()},
        clear_p_value=_CLEAR_P_VALUE,
    )


def verdict(summary: Mapping[str, Any]) -> str:
    """Who is best, in a sentence. A difference counts where its 95% interval is known and does not hold 0."""
    ranked = sorted(summary["systems"], key=lambda system: float(system["wer"]))
    best = ranked[0]["name"]
    unclear = [system["name"] for system in ranked[1:] if not _is_clear(summary, best, system["name"])]
    if not unclear:
        return f"{best} is {'better' if len(ranked) == 2 else 'best'}"
    if len(unclear) == len(ranked) - 1:
        return "No clear difference"
    return f"{best} leads, not clearly ahead of {' and '.join(unclear)}"


def _is_clear(summary: Mapping[str, Any], one: str, other: str) -> bool:
    (pair,) = (each for each in summary["pairs"] if {each["baseline"], each["system"]} == {one, other})
    found = pair["wer_difference_interval"]
    return found is not None and not found[0] <= 0 <= found[1]


def _slices(summary: Mapping[str, Any]) -> dict[str, dict[str, dict[str, Any]]]:
    """Of each slice every system's WER, in the order of the systems; and of two systems their difference.

    A group's only slice repeats the whole. Sources are named anyway.
    """
    first = summary["systems"][0]["name"]
    pairs = [pair for pair in summary["pairs"] if pair["baseline"] == first]
    return {
        group: {
            name: {
                **part,
                "wers": [part["baseline_wer"], *(pair["slices"][group][name]["wer"] for pair in pairs)],
                "is_clear": len(pairs) == 1 and (part["p_value_holm"] or 1) < _CLEAR_P_VALUE,
            }
            for name, part in parts.items()
        }
        for group, parts in pairs[0]["slices"].items()
        if len(parts) > 1 or group == "source"
    }
