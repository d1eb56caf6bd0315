"""The length index: exact, written once, and never taken for that of another corpus or tokenizer."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from caspi import audio
from caspi.corpus import Corpus
from caspi.errors import CorpusError, TrainingError
from caspi.model import Prompter, load_prompter, num_audio_tokens
from caspi.text import language_name
from caspi.training.lengths import LengthIndex, audio_tokens, shard_sizes
from caspi.training.reading import ShardReader


@pytest.fixture(scope="session")
def prompter(toy_model: Path) -> Prompter:
    return load_prompter(toy_model)


@pytest.fixture
def built(corpus: Corpus, prompter: Prompter, tmp_path: Path) -> tuple[LengthIndex, Path]:
    return LengthIndex.build(corpus, prompter, tmp_path / "lengths"), tmp_path / "lengths"


def test_every_utterance_has_the_seconds_and_tokens_that_training_will_see(built, corpus: Corpus, prompter: Prompter):
    index, _ = built
    reader = ShardReader.of_split(corpus, "train")
    assert len(index) == len(corpus.index("train"))
    for position in range(len(index)):
        row = reader.read(position)
        num_samples = len(audio.decode(row.encoded, source=row.utterance_id).samples)
        example = prompter.example(
            row.text, num_audio_tokens=num_audio_tokens(num_samples), language=language_name(row.language)
        )
        assert index.durations_s[position] == pytest.approx(num_samples / 16000)
        assert index.num_tokens[position] == len(example.prompt_ids) + len(example.target_ids)
        assert index.sources[index.source_codes[position]] == corpus.index("train")["source"][position].as_py()


def test_totals_are_those_of_the_shards(built, corpus: Corpus):
    index, _ = built
    assert dict(zip(index.shards, index.shard_utterances.sum(1).tolist(), strict=True)) == shard_sizes(corpus, "train")
    for shard, (start, stop) in enumerate(zip(index.starts, index.starts[1:], strict=False)):
        assert index.shard_audio_s[shard].sum() == pytest.approx(index.durations_s[start:stop].sum(), rel=1e-5)


def test_an_index_that_is_there_is_used_again(built, corpus: Corpus, prompter: Prompter):
    _, folder = built
    written = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    LengthIndex.build(corpus, prompter, folder)
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == written


def test_an_index_of_another_corpus_is_refused_and_built_again(built, corpus: Corpus, prompter: Prompter):
    _, folder = built
    other = replace(corpus, manifest=corpus.manifest | {"fingerprint": "another"})
    with pytest.raises(TrainingError, match=f"lengths of corpus {corpus.fingerprint}, expected another"):
        LengthIndex.open(folder, other, prompter)
    LengthIndex.build(other, prompter, folder)
    LengthIndex.open(folder, other, prompter)


def test_an_index_of_another_tokenizer_is_refused(built, corpus: Corpus, tmp_path: Path, toy_model: Path):
    from caspi.model import Loaded, build_toy
    from caspi.recipe.sections import Toy

    _, folder = built
    other = tmp_path / "other"
    Loaded.wrap(*build_toy(Toy(), texts=["one two three"] * 9, language="English", seed=0)).save(other)
    with pytest.raises(TrainingError, match="lengths of tokenizer"):
        LengthIndex.open(folder, corpus, load_prompter(other))


def test_an_index_that_is_not_there_is_an_error(corpus: Corpus, prompter: Prompter, tmp_path: Path):
    with pytest.raises(TrainingError, match="no whole index of lengths"):
        LengthIndex.open(tmp_path, corpus, prompter)


@pytest.mark.parametrize("name", ["durations_s", "num_tokens", "source_codes", "shard_utterances", "shard_audio_s"])
@pytest.mark.parametrize("size", [0, 40, -4])
def test_a_damaged_index_is_refused_and_built_again(built, corpus: Corpus, prompter: Prompter, name: str, size: int):
    index, folder = built
    path = folder / f"{name}.npy"
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(TrainingError, match="build it again"):
        LengthIndex.open(folder, corpus, prompter)
    np.testing.assert_array_equal(LengthIndex.build(corpus, prompter, folder).durations_s, index.durations_s)


def test_an_index_with_a_column_of_another_length_is_refused(built, corpus: Corpus, prompter: Prompter):
    index, folder = built
    np.save(folder / "num_tokens.npy", index.num_tokens[:-1])
    with pytest.raises(TrainingError, match=r"num_tokens.npy: damaged: shape"):
        LengthIndex.open(folder, corpus, prompter)


def test_an_interrupted_build_leaves_nothing_that_opens(built, corpus: Corpus, prompter: Prompter, monkeypatch):
    _, folder = built
    other = replace(corpus, manifest=corpus.manifest | {"fingerprint": "another"})
    monkeypatch.setattr(pq, "read_table", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        LengthIndex.build(other, prompter, folder)
    with pytest.raises(TrainingError, match="no whole index"):
        LengthIndex.open(folder, corpus, prompter)


def test_a_damaged_shard_is_named(corpus: Corpus, prompter: Prompter, tmp_path: Path):
    shutil.copytree(corpus.path, tmp_path / "corpus")
    shard = next(iter(shard_sizes(corpus, "train")))
    (tmp_path / "corpus" / shard).write_bytes(b"no parquet")
    with pytest.raises(TrainingError, match=f"{shard}: damaged shard"):
        LengthIndex.build(Corpus.open(tmp_path / "corpus"), prompter, tmp_path / "lengths")


def test_an_empty_split_is_an_error(corpus: Corpus, prompter: Prompter, tmp_path: Path):
    with pytest.raises(CorpusError, match="expected one of train"):
        LengthIndex.build(corpus, prompter, tmp_path, split="trian")


@pytest.mark.parametrize("num_samples", [0, 1, 7999, 8000, 8001, 15999, 16000, 16159, 16160, 88000, 479999, 480000])
def test_audio_tokens_are_those_of_the_model(num_samples: int):
    assert audio_tokens(np.array([num_samples / 16000], np.float32)).tolist() == [num_audio_tokens(num_samples)]


def test_the_record_is_small_and_readable(built):
    _, folder = built
    record = json.loads((folder / "lengths.json").read_text(encoding="utf-8"))
    assert record["shards"] == ["train/shard-00000.parquet"]
