"""Corpora in an object store: read as from a folder, in few requests, and what goes wrong is told."""

import json
import pickle
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from caspi.corpus import Corpus
from caspi.corpus.sources import asking, downloading
from caspi.errors import CorpusError, StorageError
from tests.corpus import spoken
from tests.object_store import upload

URL = "s3://speech/my/corpus"
BELOW = "my/corpus/"


@pytest.fixture
def folder(tmp_path: Path, s3_client, bucket, monkeypatch: pytest.MonkeyPatch) -> Corpus:
    """Of three shards, and the same in the store."""
    monkeypatch.setenv("CASPI_HOME", str(tmp_path / "home"))
    corpus = spoken.write(tmp_path / "corpus", num_shards=3)
    upload(s3_client, corpus.path, below=BELOW)
    return corpus


def shards_here(corpus: Corpus) -> list[str]:
    return sorted(path.name for path in corpus.path.glob("*/*.parquet"))


def test_it_reads_as_from_the_folder(folder: Corpus):
    corpus = Corpus.open(URL)
    assert corpus.location == URL and corpus.manifest == folder.manifest
    assert corpus.utterances.equals(folder.utterances)
    assert shards_here(corpus) == []
    assert list(corpus.iter_utterances("train")) == list(folder.iter_utterances("train"))
    assert corpus.read_rows("train/shard-00001.parquet", [3, 0]) == folder.read_rows(
        "train/shard-00001.parquet", [3, 0]
    )
    assert shards_here(corpus) == [f"shard-0000{number}.parquet" for number in range(3)]


@pytest.mark.parametrize("scheme", ["file", "memory"])
def test_other_stores_are_opened_by_their_scheme(folder: Corpus, scheme: str):
    import fsspec

    url = f"{scheme}://{folder.path}"
    fsspec.filesystem("memory").put(f"{folder.path}", f"{folder.path}", recursive=True)
    corpus = Corpus.open(url)
    assert corpus.location == url
    assert list(corpus.iter_utterances("train")) == list(folder.iter_utterances("train"))
    assert corpus.read_table("train", ["text"]).equals(folder.read_table("train", ["text"]))


def test_light_columns_come_without_the_audio(folder: Corpus, s3_client, proxy, tmp_path: Path):
    long = spoken.write(tmp_path / "long", num_shards=2, rows_per_shard=8, duration_s=5.0)
    upload(s3_client, long.path, below=BELOW)
    corpus = Corpus.open(URL)
    columns = ["utterance_id", "text"]
    assert corpus.read_table("train", columns).equals(long.read_table("train", columns))
    assert shards_here(corpus) == []
    for shard in corpus.shard_names("train"):
        read = sum(stop - start for start, stop in proxy.ranges(BELOW + shard))
        assert 0 < read < (long.path / shard).stat().st_size / 5  # 64 kB of it to find the footer


def test_a_shard_comes_whole_in_large_ranges_and_once(folder: Corpus, proxy, monkeypatch: pytest.MonkeyPatch):
    shard = "train/shard-00002.parquet"
    size = (folder.path / shard).stat().st_size
    monkeypatch.setattr(downloading, "RANGE_BYTES", size // 3 + 1)
    corpus = Corpus.open(URL)
    for _ in range(2):
        with corpus.shard(shard) as path:
            assert path.read_bytes() == (folder.path / shard).read_bytes()
    step = size // 3 + 1
    assert proxy.ranges(BELOW + shard) == [(0, step), (step, 2 * step), (2 * step, size)]


def test_opened_again_nothing_is_fetched_again(folder: Corpus, proxy):
    with Corpus.open(URL).shard("train/shard-00000.parquet"):
        pass
    asked = len(proxy.asked)
    with Corpus.open(URL).shard("train/shard-00000.parquet"):
        pass
    keys = {each.key for each in proxy.asked[asked:] if each.method == "GET"}
    assert keys == {BELOW + "manifest.json"}


def test_it_can_be_sent_to_another_machine(folder: Corpus, tmp_path: Path):
    corpus = Corpus.open(URL)
    assert len(corpus.utterances)
    sent = pickle.dumps(corpus)
    assert len(sent) < 1000  # without the index
    shutil.rmtree(tmp_path / "home")
    assert list(pickle.loads(sent).iter_utterances("train")) == list(folder.iter_utterances("train"))


def test_a_corpus_that_was_replaced_is_another_one(folder: Corpus, s3_client, tmp_path: Path):
    before = Corpus.open(URL)
    sent = pickle.dumps(before)
    other = spoken.write(tmp_path / "other", num_shards=2, duration_s=0.6)
    upload(s3_client, other.path, below=BELOW)
    after = Corpus.open(URL)
    assert after.path != before.path
    assert list(after.iter_utterances("train")) == list(other.iter_utterances("train"))
    with pytest.raises(
        StorageError, match=rf"{URL}/train/shard-00000.parquet: .* bytes, and it had .*: it was replaced"
    ):
        before.read_rows("train/shard-00000.parquet", [0])
    shutil.rmtree(tmp_path / "home")
    with pytest.raises(CorpusError, match="replaced since the command began"):
        list(pickle.loads(sent).iter_utterances("train"))


def test_a_shard_with_other_rows_is_named(folder: Corpus, s3_client, tmp_path: Path):
    """Of the same size, so that only its own footer tells."""
    shard = folder.path / "train/shard-00001.parquet"
    size = shard.stat().st_size
    fewer = tmp_path / "fewer.parquet"
    pq.write_table(pq.read_table(shard).slice(2), fewer, compression={"audio": "NONE"})
    content = fewer.read_bytes()
    assert len(content) < size
    padding = bytes(size - len(content))
    s3_client.put_object(Bucket="speech", Key=f"{BELOW}train/shard-00001.parquet", Body=padding + content)
    with pytest.raises(StorageError, match=r"shard-00001.parquet: 2 utterances, and it had 4"):
        Corpus.open(URL).read_rows("train/shard-00001.parquet", [0])


def test_a_damaged_shard_is_named(folder: Corpus, s3_client):
    size = (folder.path / "train/shard-00001.parquet").stat().st_size
    s3_client.put_object(Bucket="speech", Key=f"{BELOW}train/shard-00001.parquet", Body=bytes(size))
    corpus = Corpus.open(URL)
    with pytest.raises(StorageError, match=r"shard-00001.parquet: damaged shard"):
        corpus.read_rows("train/shard-00001.parquet", [0])
    assert shards_here(corpus) == []


@pytest.mark.parametrize("url", ["s3://nobodys/corpus", "s3://speech/none", "s3://speech"])
def test_where_there_is_no_corpus_that_is_said(folder: Corpus, url: str):
    with pytest.raises(CorpusError, match=rf"{url}: no manifest\.json there; check bucket and path"):
        Corpus.open(url)


def test_a_store_that_does_not_let_us_in_is_asked_once_and_named(folder: Corpus, proxy):
    proxy.how, proxy.failures = "refuse", 10**9
    message = rf"cannot open a corpus: {URL}/manifest\.json: may not be read: .*check the credentials"
    with pytest.raises(CorpusError, match=message):
        Corpus.open(URL)
    assert len(proxy.asked) == 1


def test_a_store_that_nothing_here_can_read_is_named(folder: Corpus):
    with pytest.raises(CorpusError, match=r"abc://x/y.*cannot read abc://"):
        Corpus.open("abc://x/y")


def test_a_missing_shard_is_known_when_the_corpus_is_opened(folder: Corpus, s3_client):
    s3_client.delete_object(Bucket="speech", Key=f"{BELOW}train/shard-00001.parquet")
    with pytest.raises(CorpusError, match=r"1 of 3 shards are not there, train/shard-00001\.parquet for instance"):
        Corpus.open(URL)


def test_an_index_of_another_corpus_is_refused(folder: Corpus, s3_client):
    manifest = {**folder.manifest, "num_utterances": 13}
    s3_client.put_object(Bucket="speech", Key=f"{BELOW}manifest.json", Body=json.dumps(manifest).encode())
    with pytest.raises(CorpusError, match=r"12 rows in utterances\.parquet, 13 utterances in manifest\.json"):
        Corpus.open(URL)


@pytest.mark.parametrize(
    ("content", "message"), [(b"{", "manifest.json is none"), (b"[1]", "is none"), (b"{}", "schema_version None")]
)
def test_a_manifest_that_is_none_is_refused(folder: Corpus, s3_client, content: bytes, message: str):
    s3_client.put_object(Bucket="speech", Key=f"{BELOW}manifest.json", Body=content)
    with pytest.raises(CorpusError, match=message):
        Corpus.open(URL)


@pytest.mark.parametrize("how", ["busy", "hang up", "stop in the middle"])
def test_a_store_that_stumbles_is_asked_again(folder: Corpus, proxy, how: str):
    proxy.how, proxy.failures = how, 3  # more than Arrow itself tries
    corpus = Corpus.open(URL)
    assert proxy.failures < 0
    proxy.failures = 3
    with corpus.shard("train/shard-00000.parquet") as path:
        assert path.read_bytes() == (folder.path / "train/shard-00000.parquet").read_bytes()
    assert proxy.failures < 0
    proxy.failures = 3
    assert corpus.read_table("train", ["text"]).equals(folder.read_table("train", ["text"]))
    assert proxy.failures < 0


def test_a_store_that_is_away_is_a_clear_error(folder: Corpus, proxy, monkeypatch: pytest.MonkeyPatch):
    corpus = Corpus.open(URL)
    monkeypatch.setattr(asking, "DEADLINE_S", 0.5)
    proxy.failures, proxy.how = 10**9, "hang up"
    with pytest.raises(StorageError, match=rf"{URL}/train/shard-00000\.parquet: no answer within"):
        corpus.read_rows("train/shard-00000.parquet", [0])
    with pytest.raises(StorageError, match=rf"{URL}/train/shard-00000\.parquet: no answer within"):
        corpus.read_table("train", ["text"])
    with pytest.raises(CorpusError, match=r"cannot open a corpus: .*manifest\.json: no answer within"):
        Corpus.open(URL)
