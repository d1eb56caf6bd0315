"""A source of a recipe as a test set: judged whole, with the texts as they were written."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from caspi.corpus import prepare
from caspi.corpus.pipeline import Progress
from caspi.corpus.sources import name_sources
from caspi.errors import RequestError
from caspi.evaluation.evaluate import evaluate
from caspi.recipe import Recipe
from caspi.recipe.data import Cutting, Data, Filters
from caspi.recipe.sources import Source

ALL = "all"
"""Instead of a source's name: every one of them, each a slice of one test set."""


def evaluate_source(
    model: str | Path,
    recipe: Recipe,
    name: str,
    *,
    output: str | Path,
    on_preparation: Callable[[Progress], None] | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Judge a model on one of a recipe's sources, or of its evaluation sets, or on `all`. Returns the metrics.

    The source is prepared into `OUTPUT/corpus/NAME`, all of it as the test split: every row or segment as it is, empty
    texts and repetitions among them, with all of its silence. No filter of the recipe drops anything, but those by
    which the source itself says that a transcript is not one. What cannot be judged nevertheless (damaged audio, a row
    without a transcript, an id that came before) is counted in `num_failed`.

    Args:
        on_preparation: called as chunks are prepared.
        options: as for `evaluate`.

    Raises:
        RequestError: the recipe has no such source, or what `prepare` and `evaluate` refuse.
    """
    output = Path(output).expanduser().absolute()
    data = as_test_set(recipe.data, name)
    folder = output / "corpus" / name
    prepare_it = recipe.model_copy(update={"data": data})
    corpus = prepare(prepare_it, folder, on_progress=on_preparation, update=(folder / "manifest.json").exists())
    sources = {str(source.name): source.model_dump(mode="json", exclude_none=True) for source in data.sources}
    return evaluate(
        model,
        corpus,
        output=output,
        split="test",
        limits=recipe.inference,
        with_rejected=True,
        sources=sources,
        **options,
    )


def as_test_set(data: Data, name: str) -> Data:
    """The settings that prepare one source, or `all`, and nothing else, as a test set.

    Raises:
        RequestError: there is no such source.
    """
    named = _named_sources(data)
    if name not in (ALL, *named):
        raise RequestError(f"the recipe has no source called {name!r}; it has {', '.join(sorted(named))}, and {ALL!r}")
    chosen = named if name == ALL else {name: named[name]}
    sources = tuple(source.model_copy(update={"split": "test", "name": key}) for key, source in chosen.items())
    filters = data.filters
    return data.model_copy(
        update={
            "sources": sources,
            "evaluation_sets": None,
            "meaning": None,
            "transcripts": "as_written",
            "cutting": Cutting(min_segment_s=0),
            "filters": Filters(
                min_duration_s=0,
                max_duration_s=1200,  # what Qwen3-ASR takes
                min_chars_per_s=0,
                max_chars_per_s=1e9,
                min_quality_score=filters.min_quality_score,
                refused_flags=filters.refused_flags,
                min_script_share=0,
                min_level_dbfs=-1000,
                max_clipped_share=1,
                refuse_empty_text=False,
                refuse_duplicate_audio=False,
            ),
        }
    )


def _named_sources(data: Data) -> dict[str, Source]:
    held_out = data.evaluation_sets.sources if data.evaluation_sets else ()
    return dict(zip(name_sources(held_out), held_out, strict=True)) | dict(
        zip(name_sources(data.sources), data.sources, strict=True)
    )
