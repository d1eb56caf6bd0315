"""Several evaluations of the same utterances side by side: who is better, by how much, where, and how sure that is.

Errors are compared utterance by utterance, so what makes a test set hard for all cancels out. Recordings are resampled
whole, with the same draws for every pair and slice.

Legend: `S` systems, `P` pairs of them, `U` utterances, `C` recordings.
"""

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from caspi.errors import RequestError, ResultsError
from caspi.evaluation import slices
from caspi.evaluation.intervals import difference_interval, ends, interval
from caspi.evaluation.metrics import ErrorCounts, pool
from caspi.evaluation.resampling import holm, p_values, probability_lower
from caspi.evaluation.results import Results, fingerprint_test_set

_NUM_CHANGED_LISTED = 50
_WHOLE = ""

UTTERANCES_SCHEMA = pa.schema(
    [
        ("utterance_id", pa.string()),
        ("reference", pa.string()),
        ("reference_scored", pa.string()),
        ("hypotheses", pa.list_(pa.string())),  # one of each system, in the order of their names
        ("hypotheses_scored", pa.list_(pa.string())),
        ("word_errors", pa.list_(pa.int32())),
        ("reference_words", pa.int32()),
        ("change", pa.int32()),  # most word errors less fewest
        ("duration_s", pa.float64()),
        ("language", pa.string()),
        ("source", pa.string()),
        ("recording_id", pa.string()),
        ("speaker_id", pa.string()),
        ("slices", pa.list_(pa.string())),
        ("shard", pa.string()),
        ("row", pa.int32()),
    ]
)


@dataclass(frozen=True, slots=True)
class Comparison:
    """What `compare` found."""

    names: tuple[str, ...]

    summary: dict[str, Any]
    """As comparison.json holds it: `test_set`, `normalizer`, `systems`, `pairs`, `changed_most`."""

    utterances: pa.Table
    """UTTERANCES_SCHEMA: those that every system was scored on, the ones that changed most first."""

    def write(self, folder: str | Path) -> None:
        """Write comparison.json, and the hypotheses side by side as comparison.parquet."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        pq.write_table(self.utterances, folder / "comparison.parquet")
        content = json.dumps(self.summary, ensure_ascii=False, indent=2, allow_nan=False)
        (folder / "comparison.json").write_text(content + "\n", encoding="utf-8")


def compare(results: Sequence[Results], names: Sequence[str]) -> Comparison:
    """Compare evaluations on the utterances that all of them were scored on, every later one with every earlier one.

    Raises:
        RequestError: fewer than two evaluations, or not a name of its own for each.
        ResultsError: they have no utterance in common, or differ in a reference or in how texts were normalized.
    """
    if len(results) < 2 or len(names) != len(results) or len(set(names)) != len(names):
        raise RequestError(
            f"{len(results)} evaluations named {', '.join(names)}; expected at least two, each with a name of its own"
        )
    _check_normalizers(results, names)
    tables = _common_utterances(results, names)
    word_errors = np.stack([_word_errors(table) for table in tables])  # (S, U)
    summary = {
        "test_set": _test_set(results, tables[0]),
        "normalizer": results[0].metrics["normalizer"],
        "systems": [_system(name, each, table) for name, each, table in zip(names, results, tables, strict=True)],
        "pairs": _pairs(names, tables, word_errors, _slices(tables[0])),
    }
    utterances = _side_by_side(tables, word_errors)
    listed = ("utterance_id", "reference", "hypotheses", "word_errors", "reference_words")
    summary["changed_most"] = [
        row for row in utterances.slice(0, _NUM_CHANGED_LISTED).select([*listed, "change"]).to_pylist() if row["change"]
    ]
    return Comparison(tuple(names), summary, utterances)


# --- the same utterances ---------------------------------------------------------------------------------------------


def _check_normalizers(results: Sequence[Results], names: Sequence[str]) -> None:
    found = {name: each.metrics["normalizer"] for name, each in zip(names, results, strict=True)}
    if len(set(found.values())) > 1:
        raise ResultsError(
            "texts were normalized differently: "
            + ", ".join(f"{name} by {normalizer}" for name, normalizer in found.items())
            + "; evaluate them again in the same language"
        )


def _common_utterances(results: Sequence[Results], names: Sequence[str]) -> list[pa.Table]:
    """The rows of utterances that every system was scored on, in the same order for all."""
    scored = [each.utterances.filter(pc.is_null(each.utterances["error"])) for each in results]
    places = [{each: row for row, each in enumerate(table["utterance_id"].to_pylist())} for table in scored]
    common = [each for each in places[0] if all(each in others for others in places[1:])]
    if not common:
        raise ResultsError(
            f"{', '.join(names)} have no scored utterance in common; evaluate them on the same split of a corpus"
        )
    tables = [table.take([place[each] for each in common]) for table, place in zip(scored, places, strict=True)]
    references = tables[0]["reference_scored"].to_pylist()
    for name, table in zip(names[1:], tables[1:], strict=True):
        for utterance_id, one, other in zip(common, references, table["reference_scored"].to_pylist(), strict=True):
            if one != other:
                raise ResultsError(
                    f"{utterance_id} has another reference in {name} than in {names[0]}: {other!r}, {one!r}; "
                    "evaluate both on the same corpus"
                )
    return tables


def _test_set(results: Sequence[Results], table: pa.Table) -> dict[str, Any]:
    ids, references = (table[column].to_pylist() for column in ("utterance_id", "reference"))
    everything = set().union(*(each.utterances["utterance_id"].to_pylist() for each in results))
    return {
        "fingerprint": fingerprint_test_set(zip(ids, references, strict=True)),
        "num_utterances": len(table),
        "num_recordings": len(pc.unique(table["recording_id"])),
        "reference_words": pc.sum(table["reference_words"]).as_py(),
        "num_left_out": len(everything) - len(table),
    }


# --- each system -----------------------------------------------------------------------------------------------------


def _word_errors(table: pa.Table) -> np.ndarray:
    """(U,)"""
    return np.sum([_numbers(table, name) for name in ("substitutions", "deletions", "insertions")], axis=0)


def _numbers(table: pa.Table, column: str) -> np.ndarray:
    return table[column].to_numpy().astype(np.int64)


def _system(name: str, results: Results, table: pa.Table) -> dict[str, Any]:
    """A system's figures on the common utterances; of its own evaluation what it invents, and its speed.

    A file of hypotheses has no speed.
    """
    is_file = results.metrics["system"]["kind"] == "file"
    recordings = table["recording_id"].to_pylist()
    score = pool(ErrorCounts(*(_numbers(table, each) for each in ErrorCounts.__slots__)), clusters=recordings)
    return {
        "name": name,
        "model": results.metrics["model"],
        "system": results.metrics["system"],
        "wer": score.wer,
        "wer_interval": ends(score.wer_interval),
        "cer": score.cer,
        "cer_interval": ends(score.cer_interval),
        **{each: getattr(score, each) for each in ("substitutions", "deletions", "insertions", "hits")},
        "ivrit": _ivrit(table, recordings),
        "hallucination": {name: value for name, value in results.metrics["hallucination"].items() if name != "clips"},
        "num_failed": results.metrics["num_failed"],
        "rtfx": None if is_file else results.metrics["rtfx"],
        "latency_s": None if is_file else results.metrics["latency_s"],
    }


def _ivrit(table: pa.Table, recordings: Sequence[str]) -> dict[str, Any] | None:
    """WER after ivrit.ai's normalization; None where it is not for the language of some utterance."""
    if table["ivrit_word_errors"].null_count:
        return None
    errors, words = _numbers(table, "ivrit_word_errors"), _numbers(table, "ivrit_reference_words")
    return {
        "wer": float(errors.sum() / max(1, words.sum())),
        "wer_interval": ends(interval(errors, words, clusters=recordings)),
    }


# --- pairs -----------------------------------------------------------------------------------------------------------


def _slices(table: pa.Table) -> dict[str, np.ndarray]:
    """Which utterances (positions) each slice that is told of has; `_WHOLE` has all."""
    found = slices.members(table["slices"].to_pylist())
    return {_WHOLE: np.arange(len(table))} | {label: np.asarray(places) for label, places in found.items()}


def _pairs(
    names: Sequence[str], tables: Sequence[pa.Table], word_errors: np.ndarray, chosen_by: Mapping[str, np.ndarray]
) -> list[dict[str, Any]]:
    recordings = tables[0]["recording_id"].to_pylist()
    clusters = np.unique(recordings, return_inverse=True)[1]
    pairs = list(itertools.combinations(range(len(names)), 2))
    differences = np.stack([word_errors[later] - word_errors[earlier] for earlier, later in pairs])  # (P, U)
    sums = _sums_by_recording(differences, clusters, chosen_by)  # (C, P, slices)
    better, by_chance = probability_lower(sums), p_values(sums)
    words = _numbers(tables[0], "reference_words")
    found = []
    for place, (earlier, later) in enumerate(pairs):
        parts = {}
        for column, (label, chosen) in enumerate(chosen_by.items()):
            parts[label] = {
                "num_utterances": len(chosen),
                "num_recordings": len(np.unique(clusters[chosen])),
                "reference_words": int(words[chosen].sum()),
                **_difference(differences[place], word_errors[earlier], words, recordings, chosen),
                "probability_better": None if better is None else float(better[place, column]),
                "p_value": float(by_chance[place, column]),
            }
        whole = parts.pop(_WHOLE)
        groups = slices.by_group(parts)
        _correct_for_their_number(groups)
        found.append(
            {
                "baseline": names[earlier],
                "system": names[later],
                **whole,
                **_changes(tables[earlier], tables[later], differences[place]),
                "slices": groups,
            }
        )
    return found


def _difference(
    differences: np.ndarray,
    baseline_errors: np.ndarray,
    words: np.ndarray,
    recordings: Sequence[str],
    chosen: np.ndarray,
) -> dict[str, Any]:
    """WERs of a pair on the chosen utterances, and how far they are apart: below 0 the later one is better."""
    length = max(1, int(words[chosen].sum()))
    baseline, difference = int(baseline_errors[chosen].sum()), int(differences[chosen].sum())
    clusters = [recordings[int(position)] for position in chosen]
    return {
        "baseline_wer": baseline / length,
        "wer": (baseline + difference) / length,
        "wer_difference": difference / length,
        "wer_difference_interval": ends(difference_interval(differences[chosen], words[chosen], clusters=clusters)),
    }


def _changes(baseline: pa.Table, system: pa.Table, differences: np.ndarray) -> dict[str, int]:
    changed = pc.not_equal(baseline["hypothesis_scored"], system["hypothesis_scored"])
    return {
        "num_changed": pc.sum(changed).as_py(),
        "num_better": int((differences < 0).sum()),
        "num_worse": int((differences > 0).sum()),
    }


def _correct_for_their_number(groups: Mapping[str, Mapping[str, dict[str, Any]]]) -> None:
    """Add `p_value_holm` to the slices; None where one is its group's only one, which repeats the whole."""
    parts = [part for group in groups.values() for part in group.values()]
    telling = [part for group in groups.values() if len(group) > 1 for part in group.values()]
    for part in parts:
        part["p_value_holm"] = None
    for part, p_value in zip(telling, holm([part["p_value"] for part in telling]), strict=True):
        part["p_value_holm"] = p_value


def _sums_by_recording(
    differences: np.ndarray, clusters: np.ndarray, chosen_by: Mapping[str, np.ndarray]
) -> np.ndarray:
    """(P, U) -> (C, P, slices): what each recording adds to each difference."""
    sums = np.zeros((clusters.max() + 1, len(differences), len(chosen_by)))
    for column, chosen in enumerate(chosen_by.values()):
        np.add.at(sums[:, :, column], clusters[chosen], differences[:, chosen].T)
    return sums


# --- utterances ------------------------------------------------------------------------------------------------------


def _side_by_side(tables: Sequence[pa.Table], word_errors: np.ndarray) -> pa.Table:
    change = word_errors.max(0) - word_errors.min(0)
    columns = {
        "hypotheses": _zipped(tables, "hypothesis"),
        "hypotheses_scored": _zipped(tables, "hypothesis_scored"),
        "word_errors": word_errors.T.tolist(),
        "change": change,
    }
    together = pa.table(
        [
            pa.array(columns[field.name], field.type) if field.name in columns else tables[0][field.name]
            for field in UTTERANCES_SCHEMA
        ],
        schema=UTTERANCES_SCHEMA,
    )
    return together.take(np.argsort(-change, kind="stable"))


def _zipped(tables: Sequence[pa.Table], column: str) -> list[list[str]]:
    return [list(each) for each in zip(*(table[column].to_pylist() for table in tables), strict=True)]
