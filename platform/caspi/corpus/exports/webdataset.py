"""WebDataset: tar files that are read from front to back.

train-000000.tar               train-00000000.flac, train-00000000.json, train-00000000.txt, train-00000001.flac, ...

The key is the split and a number: WebDataset cuts names at the first dot and keeps slashes, and an id may hold both.
The id stands in the JSON.
"""

import io
import tarfile
from collections.abc import Iterable
from pathlib import Path

from caspi.corpus.exports.rows import in_shards, light_columns, to_json
from caspi.corpus.format import Utterance


def write_split(folder: Path, split: str, utterances: Iterable[Utterance]) -> None:
    """Write `split`-000000.tar and those that follow."""
    for shard, numbered in enumerate(in_shards(utterances)):
        with tarfile.open(folder / f"{split}-{shard:06d}.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
            for number, utterance in numbered:
                key = f"{split}-{number:08d}"
                _add(tar, f"{key}.flac", utterance.audio)
                _add(tar, f"{key}.json", to_json(light_columns(utterance)).encode())
                _add(tar, f"{key}.txt", utterance.text.encode())
                tar.members = []  # type: ignore[attr-defined]  # it would remember every one until the end


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    # A TarInfo of our own has no owner and no time: the same corpus gives the same bytes.
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))
