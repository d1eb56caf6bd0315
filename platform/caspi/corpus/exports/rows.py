"""What the formats share: an utterance's columns in other people's words, and its samples."""

import itertools
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from caspi.audio import SAMPLE_RATE, memory_file
from caspi.corpus.format import SHARD_SCHEMA, Utterance
from caspi.errors import CorpusError

LIGHT_COLUMNS = [name for name in SHARD_SCHEMA.names if name != "audio"]

NAMES = {"utterance_id": "id", "speaker_id": "speaker"}
"""How the JSON formats call our columns; the others keep their names."""

MAX_SHARD_BYTES = 256 * 2**20
"""A tar or parquet file is closed when its audio has passed this: few requests to an object store, quick to copy."""

_FILES_PER_FOLDER = 1000


def light_columns(utterance: Utterance, names: Mapping[str, str] = NAMES) -> dict[str, Any]:
    """Everything of an utterance but its audio, for JSON. Bytes become hexadecimal digits."""
    values = {name: getattr(utterance, name) for name in LIGHT_COLUMNS}
    return {names.get(name, name): value.hex() if isinstance(value, bytes) else value for name, value in values.items()}


def to_json(values: Mapping[str, Any]) -> str:
    """One line, letters as they are."""
    return json.dumps(values, ensure_ascii=False, allow_nan=False)


def in_shards(utterances: Iterable[Utterance]) -> Iterator[Iterator[tuple[int, Utterance]]]:
    """For each shard its utterances, with their numbers in the split. Each must be read to its end before the next."""
    numbered = enumerate(utterances)
    for first in numbered:
        yield _one_shard(itertools.chain([first], numbered))


def _one_shard(numbered: Iterator[tuple[int, Utterance]]) -> Iterator[tuple[int, Utterance]]:
    num_bytes = 0
    for number, utterance in numbered:
        yield number, utterance
        num_bytes += len(utterance.audio)
        if num_bytes >= MAX_SHARD_BYTES:
            return


def audio_path(split: str, number: int, suffix: str) -> str:
    """Where the audio of a split's utterance lies. By number, since an id may hold what no file name can.

    In folders of a thousand: file browsers, `ls` and some network disks give up on a million.
    """
    return f"{split}/{number // _FILES_PER_FOLDER:05d}/{number:08d}{suffix}"


def write_audio(path: Path, content: bytes) -> None:
    """Write a file, and its folder where it is the first."""
    if not path.parent.exists():
        path.parent.mkdir(parents=True)
    path.write_bytes(content)


def decode_pcm(utterance: Utterance) -> np.ndarray:
    """The very 16 bits of each sample, (num_samples,) int16 at 16 kHz: nothing is scaled on the way.

    Raises:
        CorpusError: the shard is damaged.
    """
    try:
        with memory_file.reading(utterance.audio) as file:
            samples, sample_rate = file.read(dtype="int16"), file.samplerate
    except soundfile.LibsndfileError as error:
        raise CorpusError(
            f"utterance {utterance.utterance_id}: its audio in the corpus is damaged ({error.error_string}); "
            "prepare the corpus again"
        ) from error
    assert samples.ndim == 1 and sample_rate == SAMPLE_RATE, "shards hold 16 kHz mono"
    return samples
