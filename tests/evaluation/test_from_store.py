"""Evaluating on a corpus in an object store: what the folder gives, sound and all."""

import base64
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from caspi.corpus import Corpus
from caspi.errors import StorageError
from caspi.evaluation import evaluate
from tests.corpus import spoken
from tests.evaluation.test_evaluate import HearsTheLevel
from tests.object_store import Proxy, upload

pytestmark = pytest.mark.usefixtures("ray_2_cpus")


@pytest.fixture
def url(corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The corpus as an object store's. Workers of a Ray that runs already know no other store's address."""
    monkeypatch.setenv("CASPI_HOME", str(tmp_path / "home"))
    return f"file://{corpus.path}"


def test_an_evaluation_from_a_store_is_the_one_from_the_folder(corpus: Corpus, url: str, tmp_path: Path):
    there = evaluate("double", url, output=tmp_path / "there", factory=HearsTheLevel)
    local = evaluate("double", corpus, output=tmp_path / "local", factory=HearsTheLevel)
    assert there["corpus"] == url
    for name in ("wer", "cer", "wer_interval", "num_utterances", "num_failed", "slices", "corpus_fingerprint"):
        assert there[name] == local[name]
    (first,) = corpus.read_rows("test/shard-00000.parquet", [0])
    assert base64.b64encode(first.audio).decode() in (tmp_path / "there" / "report.html").read_text()


def test_a_shard_that_is_gone_is_said_in_a_line(corpus: Corpus, url: str, tmp_path: Path):
    opened = Corpus.open(url)
    (corpus.path / "test/shard-00001.parquet").unlink()
    with pytest.raises(StorageError, match=r"shard-00001\.parquet: not there any more; copy the corpus there again$"):
        evaluate("double", opened, output=tmp_path / "out", factory=HearsTheLevel)


def test_the_command_takes_the_url_of_a_bucket(s3_client, proxy: Proxy, toy_model: Path, tmp_path: Path):
    corpus = spoken.write(tmp_path / "corpus", num_shards=2)
    upload(s3_client, corpus.path, below="my/corpus/")
    words = ["evaluate", "--model", toy_model, "--corpus", "s3://speech/my/corpus", "--split", "train"]
    done = subprocess.run(
        [sys.executable, "-m", "caspi", *map(str, words), "--output", str(tmp_path / "out")],
        env={**os.environ, "CASPI_HOME": str(tmp_path / "home")},
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert (metrics["corpus"], metrics["num_utterances"]) == ("s3://speech/my/corpus", 8)
    for shard in corpus.shard_names("train"):
        assert proxy.ranges(f"my/corpus/{shard}") == [(0, (corpus.path / shard).stat().st_size)]
