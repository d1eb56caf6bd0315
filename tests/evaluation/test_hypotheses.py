"""Answers that are kept while they come."""

import errno
import json
from pathlib import Path

import pyarrow as pa
import pytest

from caspi.corpus.commit import hold
from caspi.errors import ResultsError, StorageError
from caspi.evaluation import hypotheses
from caspi.evaluation.hypotheses import Hypotheses, fingerprint_model, open_hypotheses

REQUEST = {"model": "a", "model_fingerprint": "1", "split": "test"}
ANSWERS = pa.table({"hypothesis": ["שלום"]})


def test_answers_are_found_by_the_same_request_alone(tmp_path: Path):
    with open_hypotheses(tmp_path, REQUEST, overwrite=False) as kept:
        assert kept.read("chunk") is None
        kept.write("chunk", ANSWERS)
    with open_hypotheses(tmp_path, {**REQUEST, "model": "moved"}, overwrite=False) as kept:
        assert kept.read("chunk") == ANSWERS
    with (
        pytest.raises(ResultsError, match="split 'test' there, 'train' here"),
        open_hypotheses(tmp_path, {**REQUEST, "split": "train"}, overwrite=False),
    ):
        pass
    with open_hypotheses(tmp_path, {**REQUEST, "split": "train"}, overwrite=True) as kept:
        assert kept.read("chunk") is None
    assert json.loads((tmp_path / "hypotheses" / "request.json").read_text())["split"] == "train"


def test_beginning_anew_forgets_the_answers_to_the_same_request_too(tmp_path: Path):
    with open_hypotheses(tmp_path, REQUEST, overwrite=False) as kept:
        assert kept.oldest() is None
        kept.write("chunk", ANSWERS)
        assert kept.oldest() is not None
    with open_hypotheses(tmp_path, REQUEST, overwrite=True) as kept:
        assert kept.read("chunk") is None


def test_two_cannot_evaluate_into_one_folder(tmp_path: Path):
    (tmp_path / "hypotheses").mkdir()
    with (
        hold(tmp_path / "hypotheses" / "lock", whose="evaluation"),
        pytest.raises(ResultsError, match="another evaluation is at work here"),
        open_hypotheses(tmp_path, REQUEST, overwrite=True),
    ):
        pass


def test_a_full_disk_is_said_to_be_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def fail(table: pa.Table, path: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(hypotheses, "write_arrow", fail)
    with pytest.raises(StorageError, match="what was done is kept"):
        Hypotheses(tmp_path).write("chunk", ANSWERS)


def test_a_model_is_known_by_its_files_and_what_lies_elsewhere_by_its_name(tmp_path: Path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "weights").write_bytes(b"1")
    first = fingerprint_model(str(tmp_path / "model"))
    assert fingerprint_model(f"hf:{tmp_path / 'model'}") == first
    (tmp_path / "model" / "weights").write_bytes(b"2")
    assert fingerprint_model(str(tmp_path / "model")) != first
    (tmp_path / "heard.jsonl").write_text("{}")
    assert len(fingerprint_model(f"file:{tmp_path / 'heard.jsonl'}")) == 64
    assert fingerprint_model("Qwen/Qwen3-ASR-1.7B-hf") == "Qwen/Qwen3-ASR-1.7B-hf"
