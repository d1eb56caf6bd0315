"""report.html: one self-contained page that says how good the model is, and shows where it errs."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2

from caspi.evaluation.metrics import align
from caspi.text import direction

NUM_WORST = 60


def render(metrics: Mapping[str, Any], utterances: Sequence[Mapping[str, Any]]) -> str:
    """The page as HTML. `utterances` are rows of utterances.parquet."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,  # transcripts are other people's text
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["percent"] = percent
    environment.filters["direction"] = direction
    scored = [row for row in utterances if not row["error"]]
    worst = sorted(scored, key=_num_errors, reverse=True)[:NUM_WORST]
    return environment.get_template("report.html.j2").render(
        metrics=metrics,
        worst=[
            (row, _num_errors(row), align(row["reference_scored"], row["hypothesis_scored"]))
            for row in worst
            if _num_errors(row)
        ],
        num_perfect=sum(not _num_errors(row) for row in scored),
        highest=max((part["wer"] for parts in metrics["slices"].values() for part in parts.values()), default=0.0),
    )


def percent(rate: float) -> str:
    """`12.3%`, for people."""
    return f"{100 * rate:.1f}%"


def _num_errors(row: Mapping[str, Any]) -> int:
    return int(row["substitutions"] + row["deletions"] + row["insertions"])
