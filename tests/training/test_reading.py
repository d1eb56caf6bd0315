"""Reading rows of shards: the right ones, few shards open, and errors that name the shard."""

import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from caspi.corpus import Corpus
from caspi.errors import CorpusError, TrainingError
from caspi.training.lengths import shard_sizes
from caspi.training.reading import ShardReader


@pytest.fixture
def copy(corpus: Corpus, tmp_path: Path) -> Corpus:
    """The corpus, to damage."""
    shutil.copytree(corpus.path, tmp_path / "corpus")
    return Corpus.open(tmp_path / "corpus")


@pytest.fixture
def many(copy: Corpus) -> tuple[Corpus, list[str], np.ndarray]:
    """Its training shard in pieces of five rows, two rows a row group."""
    rows = copy.read_table("train", pq.read_schema(copy.shards("train")[0]).names)
    starts = [*range(0, len(rows), 5), len(rows)]
    names = [f"train/piece-{number}.parquet" for number in range(len(starts) - 1)]
    for name, start, stop in zip(names, starts, starts[1:], strict=False):
        pq.write_table(rows.slice(start, stop - start), copy.path / name, row_group_size=2)
    return copy, names, np.array(starts)


def test_rows_are_found_by_position_in_any_order(many, corpus: Corpus):
    copy, names, starts = many
    reader = ShardReader(copy, names, starts, max_open_shards=2)
    expected = corpus.read_table("train", ["utterance_id", "audio", "text", "language", "previous_text"]).to_pylist()
    for position in np.random.default_rng(0).permutation(len(expected) * 3) % len(expected):
        row, utterance = reader.read(int(position)), expected[position]
        assert (row.utterance_id, row.encoded, row.text) == tuple(
            utterance[k] for k in ("utterance_id", "audio", "text")
        )
        assert (row.language, row.previous_text) == ("he", None)


def test_no_more_shards_are_open_than_allowed(many):
    copy, names, starts = many
    reader = ShardReader(copy, names, starts, max_open_shards=2)
    for position in range(int(starts[-1])):
        reader.read(position)
        assert len(reader._open) <= 2


def test_texts_are_those_of_one_shard(many):
    copy, names, starts = many
    reader = ShardReader(copy, names, starts)
    assert reader.texts(reader.shard_of(7)) == [reader.read(position).text for position in range(5, 10)]


def test_a_split_can_be_read_without_an_index(corpus: Corpus):
    reader = ShardReader.of_split(corpus, "validation")
    assert reader.read(0).utterance_id == corpus.index("validation")["utterance_id"][0].as_py()


def test_a_split_without_utterances_is_an_error(corpus: Corpus):
    with pytest.raises(CorpusError):
        ShardReader.of_split(corpus, "trian")


def damage_whole(shard: Path) -> None:
    shard.write_bytes(b"not a shard")


def damage_end(shard: Path) -> None:
    shard.write_bytes(shard.read_bytes()[:-100])


def damage_audio(shard: Path) -> None:
    """The footer is whole, the pages of the audio are not."""
    content = bytearray(shard.read_bytes())
    chunk = pq.read_metadata(shard).row_group(0).column(1)
    assert chunk.path_in_schema == "audio"
    content[chunk.data_page_offset : chunk.data_page_offset + 20] = bytes(20)
    shard.write_bytes(content)


@pytest.mark.parametrize("damage", [damage_whole, damage_end, damage_audio, Path.unlink])
def test_a_damaged_shard_is_an_error_that_names_it(copy: Corpus, damage):
    (shard,) = shard_sizes(copy, "train")
    damage(copy.path / shard)
    with pytest.raises(TrainingError, match=f"{shard}: cannot be read: "):
        ShardReader.of_split(copy, "train").read(0)


def test_a_shard_of_another_length_is_an_error(copy: Corpus):
    (shard,) = shard_sizes(copy, "train")
    pq.write_table(pq.read_table(copy.path / shard).slice(1), copy.path / shard)
    with pytest.raises(TrainingError, match=r"rows, the index says"):
        ShardReader.of_split(copy, "train").read(0)
