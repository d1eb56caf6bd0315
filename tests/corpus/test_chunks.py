"""Recordings that are too much for their decoder: they alone are refused, wherever it happens."""

import io

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile

from caspi.corpus import prepare, staging
from caspi.corpus.chunks import Item, prepare_chunk
from caspi.corpus.planning import make_plan
from caspi.corpus.staging import Stage, read_arrow
from tests.corpus.conftest import recipe, tone, write_jsonl


@pytest.fixture(scope="module")
def long_recording(tmp_path_factory):
    """An hour and a half."""
    path = tmp_path_factory.mktemp("long") / "long.flac"
    minute = (np.random.default_rng(0).standard_normal(48000 * 60) * 100).astype(np.int16)
    with soundfile.SoundFile(path, "w", 48000, 1, "PCM_16") as file:
        for _ in range(90):
            file.write(minute)
    return path


@pytest.fixture
def endless(tmp_path, long_recording):
    """A JSONL source of five short recordings and, in their middle, one that takes seconds to decode."""
    lines = []
    for number in range(5):
        (tmp_path / f"{number}.wav").write_bytes(tone(1.0, frequency=300 + number))
        lines.append({"id": f"r{number}", "audio": f"{number}.wav", "text": f"מספר {number}"})
    lines.insert(2, {"id": "long", "audio": str(long_recording), "text": "ארוך"})
    return {"kind": "jsonl", "path": write_jsonl(tmp_path / "speech.jsonl", lines), "split": "train"}


@pytest.mark.usefixtures("ray_2_cpus")
def test_a_decoder_that_does_not_end_costs_its_recording_and_no_other(endless, tmp_path):
    corpus = prepare(recipe(endless, decoding={"timeout_s": 1.0}), tmp_path / "corpus")
    (refusal,) = pq.read_table(corpus.path / "rejected.parquet").to_pylist()
    assert (refusal["recording_id"], refusal["reason"]) == ("long", "decoder_timeout")
    assert corpus.manifest["num_utterances"] == 5


def chunk_of(source, **data):
    plan = make_plan(recipe(source, **data).data)
    return Item(plan.chunks[0], plan.keys[0], plan.names[0]), plan.data


def test_a_chunk_that_was_begun_before_is_decoded_apart_with_the_same_result(endless, tmp_path):
    item, data = chunk_of(endless)
    ledgers = []
    for name in ("first", "again"):
        stage = Stage(tmp_path / name)
        if name == "again":
            mark = stage.begun(item.key)
            mark.parent.mkdir(parents=True)
            mark.touch()
        list(prepare_chunk(item, data, stage.path, None))
        assert not stage.begun(item.key).exists()
        parts = [path.read_bytes() for path in sorted(stage.path.glob("*/*-*.arrow"))]
        ledgers.append((read_arrow(stage.ledger(item.key)), parts))
    assert ledgers[0] == ledgers[1]


def test_a_recording_beyond_the_bound_is_refused_by_its_length(endless, tmp_path):
    item, data = chunk_of(endless, decoding={"max_recording_s": 60})
    (status,) = prepare_chunk(item, data, tmp_path / "stage", None)
    ledger = read_arrow(Stage(tmp_path / "stage").ledger(item.key))
    assert status.to_pylist() == [{"num_rows": 6, "num_rejected": 1, "num_samples": 5 * 16000}]
    assert [reason for reason in ledger["reason"].to_pylist() if reason] == ["audio_too_long"]


def test_a_source_that_shrinks_while_it_is_read_stops_the_job(endless, tmp_path):
    item, data = chunk_of(endless)
    endless["path"].write_text("")
    with pytest.raises(AssertionError, match="6 rows were planned"):
        list(prepare_chunk(item, data, tmp_path / "stage", None))


def test_what_waits_in_the_stage_is_bounded_and_readable(tmp_path, monkeypatch):
    """Parts are closed when they are full, so the memory of a task does not grow with its chunk."""
    monkeypatch.setattr(staging, "_PART_BYTES", 4 * 2**20)
    lines = []
    chance = np.random.default_rng(0)
    for number in range(16):
        encoded = io.BytesIO()
        soundfile.write(encoded, chance.standard_normal(16000 * 29) * 0.2, 16000, format="WAV", subtype="PCM_16")
        (tmp_path / f"{number}.wav").write_bytes(encoded.getvalue())
        lines.append({"id": f"r{number}", "audio": f"{number}.wav", "text": "שלום עולם " * 5})
    source = {"kind": "jsonl", "path": write_jsonl(tmp_path / "speech.jsonl", lines)}
    item, data = chunk_of(source)
    list(prepare_chunk(item, data, tmp_path / "stage", None))
    parts = sorted((tmp_path / "stage").glob("*/*-*.arrow"))
    assert len(parts) > 1
    assert sum(len(read_arrow(part)) for part in parts) == 16
    assert max(part.stat().st_size for part in parts) < 6 * 2**20
