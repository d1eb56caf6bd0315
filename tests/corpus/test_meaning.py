import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from caspi.corpus import prepare
from caspi.corpus.ledger import LEDGER_SCHEMA
from caspi.corpus.meaning import judge
from caspi.corpus.preparation import Preparer
from caspi.corpus.rows import Chunk, Row
from caspi.corpus.staging import Stage, stage_rows
from caspi.errors import ModelError
from caspi.inference.transcription import Transcription
from caspi.recipe.data import Meaning
from tests.corpus.conftest import recipe, tone


class Parrot:
    """Hears the same in every clip."""

    def __init__(self, text):
        self._text = text

    def transcribe_batch(self, clips, *, languages=None):
        assert all(isinstance(clip, np.ndarray) and len(clip) for clip in clips)
        return [Transcription(text=self._text, language="he", duration_s=len(clip) / 16000) for clip in clips]


@pytest.fixture
def staged(tmp_path):
    """A chunk of three rows, one of them bad, in a stage."""
    data = recipe({"kind": "folder", "path": "/speech"}).data
    texts = ["שלום עולם", "בוקר טוב", ""]
    rows = [Row(f"r{number}", f"r{number}", text, tone(1 + number)) for number, text in enumerate(texts)]
    stage = Stage(tmp_path)
    ledger = stage_rows(iter(rows), Chunk(0, "/speech", 3), "abc", "speech", data, Preparer(data), stage)
    return ledger, stage


def test_a_transcript_that_the_model_does_not_hear_is_refused(staged):
    ledger, stage = staged
    judged = judge(ledger, stage.path, Parrot("שלום, עולם!"), Meaning(model="m", max_wer=0.5))
    assert judged.schema == LEDGER_SCHEMA

    first, second, third = judged.to_pylist()
    assert (first["reason"], first["judge_wer"]) == (None, 0.0)
    assert (second["reason"], second["judge_wer"]) == ("disagrees_with_model", 1.0)
    assert "שלום, עולם!" in second["detail"]
    assert (second["text"], second["file"]) == ("בוקר טוב", None)
    assert second["example"]
    assert (third["reason"], third["judge_wer"]) == ("empty_text", None)


def test_what_disagrees_may_stay_with_its_figure(staged):
    ledger, stage = staged
    judged = judge(ledger, stage.path, Parrot("משהו אחר"), Meaning(model="m", max_wer=0.5, refuse=False))
    assert judged["reason"].to_pylist() == [None, None, "empty_text"]
    assert judged["judge_wer"].to_pylist() == [1.0, 1.0, None]


def test_a_chunk_of_refusals_needs_no_model(tmp_path):
    empty = pa.Table.from_pylist([{"row": 0, "segment": 0, "reason": "noisy"}], schema=LEDGER_SCHEMA)
    assert judge(empty, tmp_path, Parrot(""), Meaning(model="m")).equals(empty)


@pytest.mark.usefixtures("ray_2_cpus")
def test_a_real_model_judges_a_corpus(jsonl_of_tones, toy_model, tmp_path):
    source = {"kind": "jsonl", "path": jsonl_of_tones(5), "split": "train"}
    wanted = recipe(source, meaning={"model": str(toy_model), "refuse": False})
    corpus = prepare(wanted, tmp_path / "corpus")
    (shard,) = corpus.shards("train")
    wers = pq.read_table(shard, columns=["judge_wer"])["judge_wer"].to_pylist()
    assert len(wers) == 5
    assert all(wer is not None and wer >= 0 for wer in wers)


@pytest.mark.usefixtures("ray_2_cpus")
def test_a_model_that_cannot_be_loaded_is_named_as_what_it_is(jsonl_of_tones, toy_model, tmp_path):
    broken = tmp_path / "broken"
    shutil.copytree(toy_model, broken)
    (broken / "model.safetensors").write_bytes(b"not weights")
    source = {"kind": "jsonl", "path": jsonl_of_tones(5), "split": "train"}
    with pytest.raises(ModelError, match="broken"):
        prepare(recipe(source, meaning={"model": str(broken)}), tmp_path / "corpus")
