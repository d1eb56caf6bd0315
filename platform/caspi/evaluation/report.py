"""report.html: one self-contained page that says how good a model is, and where and how it errs."""

import base64
import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import markupsafe
import pyarrow as pa
import pyarrow.compute as pc

from caspi import page
from caspi.evaluation.alignment import Confusions, count_confusions, operations
from caspi.evaluation.browsing import browse, to_json
from caspi.evaluation.charts import Columns, draw_columns, rates_by_duration
from caspi.evaluation.public_numbers import measured_row, published_on
from caspi.evaluation.results import Results
from caspi.evaluation.sound import Sound, collect_sound

_TEMPLATES = Path(__file__).parent / "templates"


def write_report(folder: str | Path, results: Results) -> Path:
    """Write `folder/report.html`, and beside it the sound, where that is more than fits into a page."""
    path = Path(folder) / "report.html"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(render(results, collect_sound(results, path)), encoding="utf-8")
    return path


def render(results: Results, sound: Sound) -> str:
    """The page of one evaluation as HTML."""
    metrics = results.metrics
    return fill(
        "report.html.j2",
        {metrics["system"]["name"]: results},
        sound,
        metrics=metrics,
        slices=_telling(metrics["slices"]),
        num_perfect=pc.sum(pc.equal(scored_rows(results)["wer"], 0)).as_py(),
        confusions=confusions(results),
        highest=highest_end([part for parts in metrics["slices"].values() for part in parts.values()]),
    )


def _telling(slices: Mapping[str, Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """The groups that tell parts apart: a group's only slice repeats the headline. Sources are named anyway."""
    return {group: parts for group, parts in slices.items() if len(parts) > 1 or group == "source"}


def highest_end(parts: Sequence[Mapping[str, Any]]) -> float:
    """Where the bars of rates end: a wide interval of a few utterances must not make all others small."""
    highest = max((part["wer"] for part in parts), default=0.0)
    return min(1.5 * highest, max(((part["wer_interval"] or [0, part["wer"]])[1] for part in parts), default=0.0))


def fill(template: str, systems: Mapping[str, Results], sound: Sound, **values: Any) -> str:
    """A page about systems and their utterances; `values` are what its template alone needs."""
    environment = page.environment(_TEMPLATES)
    environment.filters |= {"in_words": in_words, "rules": rules, "title": title}
    script = (_TEMPLATES / "utterances.js").read_text(encoding="utf-8")
    table = browse(systems, sound)
    first = scored_rows(next(iter(systems.values())))
    measured = measured_row(next(iter(systems.values())))
    return environment.get_template(template).render(
        policy=_policy(script),
        script=markupsafe.Markup(script),
        table=to_json(table),
        groups=table["groups"],
        sounds=to_json(sound.embedded),
        is_audible=bool(sound.places),
        language=Counter(first["language"].to_pylist()).most_common(1)[0][0],
        by_duration=_draw_durations(systems, table),
        measured=measured,
        published=published_on(measured),
        **values,
    )


def scored_rows(results: Results) -> pa.Table:
    """The utterances that could be used."""
    return results.utterances.filter(pc.is_null(results.utterances["error"]))


def confusions(results: Results) -> Confusions:
    """What one system hears as what."""
    scored = scored_rows(results)
    said, heard = scored["reference_scored"].to_pylist(), scored["hypothesis_scored"].to_pylist()
    return count_confusions(said, heard, operations(said, heard))


def in_words(wer: float) -> str:
    """An error rate as one would say it to somebody who does not know what WER is."""
    if wer == 0:
        return "Every word is right."
    if wer >= 0.95:
        return f"There are {'more errors than' if wer > 1 else 'about as many errors as'} words."
    if wer >= 0.35:
        return f"About {10 * wer:.0f} words in 10 are wrong, missing or added."
    return f"About one word in {1 / wer:,.0f} is wrong, missing or added."


def title(group: str) -> str:
    """A group of slices as a heading."""
    return {"snr": "Signal to noise", "form": "Long form"}.get(group) or group.replace("_", " ").capitalize()


def rules(score: str) -> str:
    """The name of a score in metrics.json, for people."""
    return {"caspi": "Ours: the headline", "ivrit": "ivrit.ai's"}.get(score) or score.replace("_", " ").capitalize()


def _draw_durations(systems: Mapping[str, Results], table: Mapping[str, Any]) -> Columns | None:
    """Error by duration; None where all utterances are about as long, or all are right."""
    shown = pa.array(table["rows"]["id"])
    tables = [scored_rows(each) for each in systems.values()]
    tables = [each.filter(pc.is_in(each["utterance_id"], shown)) for each in tables]
    labels = {label for each in tables[0]["slices"].to_pylist() for label in each or ()}
    bands = [band for band in dict(table["groups"]).get("duration", []) if f"duration={band}" in labels]
    rates = rates_by_duration(tables, bands)
    return draw_columns(bands, rates) if len(bands) > 1 and any(each.wer for band in rates for each in band) else None


def _policy(script: str) -> str:
    """Only our own script runs, whatever a transcript says, and nothing on the page reaches out."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return f"script-src 'sha256-{digest}'; connect-src 'none'; object-src 'none'; base-uri 'none'; form-action 'none'"
