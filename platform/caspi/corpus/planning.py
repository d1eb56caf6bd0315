"""What a preparation will do, before it does it: chunks, and the keys by which finished work is known again."""

from dataclasses import dataclass

from caspi.corpus.format import SCHEMA_VERSION
from caspi.corpus.keys import chunk_keys, combine, held_out_keys
from caspi.corpus.rows import Chunk
from caspi.corpus.sources import plan_chunks, source_names
from caspi.recipe.data import Data


@dataclass(frozen=True, slots=True)
class Plan:
    """All chunks of a recipe, in the order of its sources, with their keys."""

    data: Data
    chunks: list[Chunk]
    keys: list[str]
    names: list[str]  # of the sources
    held_out: "Plan | None"  # the evaluation sets, read for their ids and sounds alone
    key: str  # equal for plans that give the same corpus

    @property
    def num_rows(self) -> int:
        return sum(chunk.num_rows for chunk in self.chunks)


def make_plan(data: Data) -> Plan:
    """Look at what is there.

    Raises:
        SourceError: a path matches nothing, or what is there is not what its `kind` says.
    """
    held_out = _plan_held_out(data)
    names, chunks = source_names(data), plan_chunks(data)
    held_out_id = held_out.key if held_out else ""
    keys = chunk_keys(chunks, names, data, held_out_id)
    of_the_whole = [str(SCHEMA_VERSION), str(data.shards.max_duration_s)]
    return Plan(data, chunks, keys, names, held_out, combine([*of_the_whole, *keys]))


def _plan_held_out(data: Data) -> Plan | None:
    """The evaluation sets, as if they were the sources."""
    if data.evaluation_sets is None:
        return None
    sets = data.model_copy(update={"sources": data.evaluation_sets.sources, "evaluation_sets": None})
    names, chunks = source_names(sets), plan_chunks(sets)
    keys = held_out_keys(chunks, names, sets)
    return Plan(sets, chunks, keys, names, None, combine([*data.evaluation_sets.match, *keys]))
