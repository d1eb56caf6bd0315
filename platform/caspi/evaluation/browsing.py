"""The utterances of a report as the page's own script reads them: compact columns, all systems' answers side by side.

`templates/utterances.js` shows them; what it needs to know of each column is said here.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import markupsafe

from caspi.evaluation.alignment import operations
from caspi.evaluation.results import Results
from caspi.evaluation.sound import Sound
from caspi.text import direction


def browse(systems: Mapping[str, Results], sound: Sound) -> dict[str, Any]:
    """What the page's table holds; of several systems, the utterances that all were scored on.

    Columns of `rows` have an entry for each utterance: `id`, `said` (the reference as it is scored), `written` (as it
    is written, empty where that is the same), `seconds`, `language` (a place in `languages`), `slices` (places in the
    names of all `groups`, one after another), `recording`, `speaker`, `snr_db`, `sound` (the number that its sound goes
    by, null without). For each system `heard` (scored), `answer` (as written, empty if the same), `operations` (see
    `alignment`), `is_loop` and `error` (why it could not be used, and what is known of that, else empty).
    """
    tables = [each.utterances.to_pylist() for each in systems.values()]
    if len(tables) > 1:
        scored = [{row["utterance_id"]: row for row in rows if not row["error"]} for rows in tables]
        shared = [utterance_id for utterance_id in scored[0] if all(utterance_id in rows for rows in scored)]
        tables = [[rows[utterance_id] for utterance_id in shared] for rows in scored]
    first = tables[0]
    groups = _groups(next(iter(systems.values())).metrics["slices"], (row["slices"] or () for row in first))
    labels = [f"{group}={name}" for group, names in groups for name in names]
    places = {label: place for place, label in enumerate(labels)}
    languages = sorted({row["language"] for row in first})
    return {
        "names": list(systems),
        "languages": [{"code": code, "direction": direction(code)} for code in languages],
        "groups": groups,
        "sound_folder": sound.folder,
        "rows": {
            "id": [row["utterance_id"] for row in first],
            "said": [row["reference_scored"] or "" for row in first],
            "written": [_unless_same(row["reference"], row["reference_scored"]) for row in first],
            "seconds": [None if row["duration_s"] is None else round(row["duration_s"], 2) for row in first],
            "language": [languages.index(row["language"]) for row in first],
            "slices": [[places[label] for label in row["slices"] or ()] for row in first],
            "recording": [row["recording_id"] for row in first],
            "speaker": [row["speaker_id"] for row in first],
            "snr_db": [None if row["snr_db"] is None else round(row["snr_db"]) for row in first],
            "sound": [sound.places.get(row["utterance_id"]) for row in first],
        },
        "systems": [_answers(rows) for rows in tables],
    }


def to_json(values: Any) -> markupsafe.Markup:
    """For within a `<script type="application/json">`: nothing in it can end the element, or begin another one."""
    compact = json.dumps(values, ensure_ascii=False, separators=(",", ":"))
    return markupsafe.Markup(compact.replace("<", "\\u003c"))


def _answers(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One system's columns."""
    heard = [row["hypothesis_scored"] or "" for row in rows]
    aligned = operations([row["reference_scored"] or "" for row in rows], heard)
    return {
        "heard": heard,
        "answer": [_unless_same(row["hypothesis"], row["hypothesis_scored"]) for row in rows],
        "operations": ["" if row["error"] else each for row, each in zip(rows, aligned, strict=True)],
        "is_loop": [int(bool(row["is_repetition"])) for row in rows],
        "error": [": ".join(filter(None, (row["error"], row["error_detail"]))) for row in rows],
    }


def _unless_same(written: str | None, scored: str | None) -> str:
    return "" if written is None or written == scored else written


def _groups(slices: Mapping[str, Mapping[str, Any]], labels: Iterable[Sequence[str]]) -> list[tuple[str, list[str]]]:
    """Every group with its names: those of metrics.json in its order, then what else the utterances are labelled."""
    groups = {group: dict.fromkeys(names) for group, names in slices.items()}
    for label in sorted({label for each in labels for label in each}):
        group, _, name = label.partition("=")
        groups.setdefault(group, {})[name] = None
    return [(group, list(names)) for group, names in groups.items()]
