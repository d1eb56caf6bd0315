"""Names for work that was done, so that it is not done again: equal keys mean equal results."""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Sequence
from importlib.metadata import version
from typing import Any

from caspi.corpus.rows import Chunk
from caspi.recipe.data import Data

# Raise it whenever the same chunk, recipe and libraries would give other utterances or refusals than before.
_PREPARATION_VERSION = 4

# Other versions of these may give other samples or other FLAC bytes.
_LIBRARIES = ("soundfile", "soxr", "av", "numpy", "silero-vad", "onnxruntime")

# What decides how prepared utterances are put together, and nothing about any one of them.
_ONLY_OF_THE_WHOLE: Any = {"sources": True, "evaluation_sets": True, "shards": {"max_duration_s"}}


def chunk_keys(chunks: Sequence[Chunk], names: Sequence[str], data: Data, held_out: str) -> list[str]:
    """The keys of chunks: what is read, and everything of the recipe that its rows depend on.

    `names` are those of the sources; `held_out` is the key of the evaluation sets. A source's place among others does
    not count.
    """

    def common(source: int) -> dict[str, Any]:
        # The language with the settings, so that the key says the rows' language and not who said it.
        settings = data.for_source(source).model_dump(mode="json", exclude=_ONLY_OF_THE_WHOLE)
        return {"data": settings, "held_out": held_out}

    return _keys(chunks, names, data, common)


def held_out_keys(chunks: Sequence[Chunk], names: Sequence[str], data: Data) -> list[str]:
    """The keys of chunks of evaluation sets, of which only ids and sounds are taken."""
    decoding = data.decoding.model_dump(mode="json")
    return _keys(chunks, names, data, lambda source: {"decoding": decoding})


def _keys(
    chunks: Sequence[Chunk], names: Sequence[str], data: Data, common: Callable[[int], dict[str, Any]]
) -> list[str]:
    """`common` is what else decides over the rows of a source."""
    # There may be millions of chunks: what they share is put together once.
    preparation = {"version": _PREPARATION_VERSION, **{name: version(name) for name in _LIBRARIES}}
    shared = [
        {
            "preparation": preparation,
            "source": source.model_dump(mode="json", exclude={"language"}),
            "name": name,
            **common(number),
        }
        for number, (source, name) in enumerate(zip(data.sources, names, strict=True))
    ]
    keys = []
    for chunk in chunks:
        place = dataclasses.asdict(chunk)
        source = place.pop("source")
        keys.append(_key({"chunk": place, **shared[source]}))
    return keys


def combine(keys: Sequence[str]) -> str:
    """One key for many, in their order."""
    return _key(list(keys))


def _key(values: Any) -> str:
    text = json.dumps(values, sort_keys=True, ensure_ascii=True)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
