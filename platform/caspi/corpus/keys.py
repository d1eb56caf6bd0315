"""Names for work that was done, so that it is not done again: equal keys mean equal results."""

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

from caspi.corpus.rows import Chunk
from caspi.recipe.data import Data
from caspi.recipe.sources import Source

# Raise it whenever the same chunk, recipe and libraries would give other utterances or refusals than before.
_PREPARATION_VERSION = 3

# Other versions of these may give other samples or other FLAC bytes.
_LIBRARIES = ("soundfile", "soxr", "av", "numpy", "silero-vad", "onnxruntime")

# What decides how prepared utterances are put together, and nothing about any one of them.
_ONLY_OF_THE_WHOLE: Any = {"sources": True, "evaluation_sets": True, "shards": {"max_duration_s"}}


def chunk_key(chunk: Chunk, source: Source, name: str, data: Data, held_out: str) -> str:
    """The key of a chunk: what is read, and everything of the recipe that its rows depend on.

    `held_out` is the key of the evaluation sets. The source's place among others does not count.
    """
    settings = data.model_dump(mode="json", exclude=_ONLY_OF_THE_WHOLE)
    return _key({**_what_is_read(chunk, source, name), "data": settings, "held_out": held_out})


def held_out_key(chunk: Chunk, source: Source, name: str, data: Data) -> str:
    """The key of a chunk of an evaluation set, of which only ids and sounds are taken."""
    return _key({**_what_is_read(chunk, source, name), "decoding": data.decoding.model_dump(mode="json")})


def _what_is_read(chunk: Chunk, source: Source, name: str) -> dict[str, Any]:
    place = dataclasses.asdict(chunk)
    del place["source"]
    return {"preparation": _preparation(), "chunk": place, "source": source.model_dump(mode="json"), "name": name}


def combine(keys: Sequence[str]) -> str:
    """One key for many, in their order."""
    return _key(list(keys))


def _preparation() -> dict[str, Any]:
    return {"version": _PREPARATION_VERSION, **{name: version(name) for name in _LIBRARIES}}


def _key(values: Any) -> str:
    text = json.dumps(values, sort_keys=True, ensure_ascii=True)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
