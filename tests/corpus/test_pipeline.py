import io
import json

import pyarrow.parquet as pq
import pytest
import ray
import soundfile

from caspi.corpus import Corpus, prepare
from caspi.corpus.format import INDEX_SCHEMA, REJECTED_SCHEMA, SHARD_SCHEMA
from caspi.corpus.planning import make_plan
from caspi.errors import CorpusError, SourceError
from tests.corpus.conftest import (
    CROWD_TRANSCRIBE,
    WHISPER_TRAINING,
    crowd_row,
    hashes,
    recipe,
    slice_row,
    tone,
    write_jsonl,
    write_parquet,
)

pytestmark = pytest.mark.usefixtures("ray_2_cpus")


def rejected(corpus):
    return pq.read_table(corpus.path / "rejected.parquet").to_pylist()


@pytest.fixture
def mixed(tmp_path):
    """Both hub schemas, mixed codecs, and all kinds of damage."""
    crowd = [
        *(crowd_row(f"good{number}", audio=tone(1.0, frequency=100 + number)) for number in range(20)),
        crowd_row("mp3", audio=tone(2.0, sample_rate=44100, container="MP3", subtype="MPEG_LAYER_III")),
        crowd_row("opus", audio=tone(2.0, sample_rate=48000, container="OGG", subtype="OPUS")),
        crowd_row("garbage", audio=b"garbage" * 99),
        crowd_row("cut", audio=tone(5.0)[:20000]),
        crowd_row("void", audio=b""),
        crowd_row("silent text", "..."),
        crowd_row("noisy", noisy=True),
        crowd_row("short", audio=tone(0.1)),
        crowd_row("good3"),
    ]
    slices = [
        slice_row("e1", "<|0.00|> שלום<|2.00|><|2.50|> עולם<|4.00|><|8.00|>"),
        slice_row("e1", "<|0.00|> אחד<|2.00|><|5.00|> שתיים<|90.00|>", seek=8.0, audio=tone(10.0, frequency=333)),
        slice_row("e2", "<|0.00|> שלוש<|1.00|>", quality_score=0.2),
    ]
    write_parquet(tmp_path / "crowd/data/train-00000-of-00001.parquet", crowd, CROWD_TRANSCRIBE)
    write_parquet(tmp_path / "crowd/data/test-00000-of-00001.parquet", [crowd_row("held out")], CROWD_TRANSCRIBE)
    write_parquet(tmp_path / "recital/train.parquet", slices, WHISPER_TRAINING)
    return recipe(
        {"kind": "hub_parquet", "path": tmp_path / "crowd/data"},
        {"kind": "hub_parquet", "path": tmp_path / "recital"},
        filters={"min_quality_score": 0.5},
        splits={"validation": 0.3},
        shards={"max_duration_s": 5.0},
    )


def test_every_row_is_kept_or_refused_and_the_counts_add_up(mixed, tmp_path):
    corpus = prepare(mixed, tmp_path / "corpus")
    manifest, refusals = corpus.manifest, rejected(corpus)

    assert {row["recording_id"]: row["reason"] for row in refusals} == {
        "garbage": "undecodable_audio",
        "cut": "truncated_audio",
        "void": "empty_audio",
        "silent text": "empty_text",
        "noisy": "noisy",
        "short": "too_short",
        "good3": "duplicate_id",
        "recital/e1": "bad_timestamps",
        "recital/e2": "low_quality_score",
    }
    assert manifest["num_recordings"] == 33
    assert manifest["num_recordings_rejected"] == 8  # the second slice of e1 lost one of its two segments only
    assert manifest["num_utterances"] == 23 + 3 == len(corpus.utterances)
    assert sum(manifest["rejected_by_reason"].values()) == len(refusals) == 9
    for parts in (manifest["splits"], manifest["sources"]):
        assert sum(part["num_utterances"] for part in parts.values()) == manifest["num_utterances"]
        assert sum(part["hours"] for part in parts.values()) == pytest.approx(manifest["hours"], abs=1e-5)
        kept = manifest["num_recordings"] - manifest["num_recordings_rejected"]
        assert sum(part["num_recordings"] for part in parts.values()) == kept


def test_shards_index_and_audio_agree(mixed, tmp_path):
    corpus = prepare(mixed, tmp_path / "corpus")

    assert corpus.utterances.schema == INDEX_SCHEMA
    assert pq.read_schema(corpus.path / "rejected.parquet") == REJECTED_SCHEMA
    shards = sorted(corpus.path.glob("*/shard-*.parquet"))
    assert {str(shard.relative_to(corpus.path)) for shard in shards} == set(corpus.utterances["shard"].to_pylist())
    for shard in shards:
        table = pq.read_table(shard)
        assert table.schema == SHARD_SCHEMA
        assert len(table) == 1 or sum(table["duration_s"].to_pylist()) <= 5.0
    for row in corpus.utterances.to_pylist():
        (utterance,) = corpus.read_rows(row["shard"], [row["row"]])
        assert (utterance.utterance_id, utterance.split) == (row["utterance_id"], row["split"])
        assert len(utterance.text.encode()) == row["num_text_bytes"]
        samples, sample_rate = soundfile.read(io.BytesIO(utterance.audio))
        assert (samples.ndim, sample_rate, utterance.language) == (1, 16000, "he")
        assert len(samples) / 16000 == utterance.duration_s == row["duration_s"]


def test_rows_are_read_in_the_order_asked_for(mixed, tmp_path):
    corpus = prepare(mixed, tmp_path / "corpus")
    in_order = [utterance.utterance_id for utterance in corpus.iter_utterances("train")]
    asked = corpus.read_rows("train/shard-00000.parquet", [1, 0, 1])
    assert [utterance.utterance_id for utterance in asked] == [in_order[1], in_order[0], in_order[1]]
    assert corpus.read_table("train", ["utterance_id"])["utterance_id"].to_pylist() == in_order


def test_recordings_stay_on_one_side_and_tests_of_the_source_are_kept(mixed, tmp_path):
    index = prepare(mixed, tmp_path / "corpus").utterances.to_pylist()
    sides = {}
    for row in index:
        sides.setdefault(row["recording_id"], set()).add(row["split"])
    assert all(len(splits) == 1 for splits in sides.values())
    assert [row["recording_id"] for row in index if row["split"] == "test"] == ["held out"]
    assert {"train", "validation"} <= {row["split"] for row in index}


def test_two_runs_are_byte_identical(mixed, tmp_path):
    first = prepare(mixed, tmp_path / "first")
    second = prepare(mixed, tmp_path / "second")
    assert hashes(first.path) == hashes(second.path)
    assert first.fingerprint == second.fingerprint


def test_the_fingerprint_sees_text_but_not_the_size_of_shards(mixed, tmp_path, jsonl_of_tones):
    path = jsonl_of_tones(5)
    source = {"kind": "jsonl", "path": path, "split": "train"}
    whole = prepare(recipe(source), tmp_path / "whole")
    cut = prepare(recipe(source, shards={"max_duration_s": 1}), tmp_path / "cut")
    path.write_text(path.read_text(encoding="utf-8").replace('4"', '5"', 1), encoding="utf-8")
    changed = prepare(recipe(source), tmp_path / "changed")

    assert len(cut.shards("train")) > 1
    assert whole.fingerprint == cut.fingerprint != changed.fingerprint


def test_more_data_moves_no_recording(jsonl_of_tones, tmp_path):
    splits = {"validation": 0.3, "test": 0.3}
    sides = []
    for number in (20, 40):
        path = jsonl_of_tones(number)
        corpus = prepare(recipe({"kind": "jsonl", "path": path}, splits=splits), tmp_path / str(number))
        sides.append({row["recording_id"]: row["split"] for row in corpus.utterances.to_pylist()})
    assert sides[0].items() <= sides[1].items()
    assert set(sides[0].values()) == {"train", "validation", "test"}


def test_speakers_stay_together_when_asked(jsonl_of_tones, tmp_path):
    splits = {"validation": 0.4, "by": "speaker"}
    corpus = prepare(recipe({"kind": "jsonl", "path": jsonl_of_tones(30)}, splits=splits), tmp_path / "corpus")
    sides = {(row["speaker_id"], row["split"]) for row in corpus.utterances.to_pylist()}
    assert len(sides) == 3


def test_a_missing_file_is_a_rejected_row(tmp_path):
    (tmp_path / "a.wav").write_bytes(tone())
    lines = [{"id": "a", "audio": "a.wav", "text": "שלום"}, {"id": "b", "audio": "b.wav", "text": "שלום"}]
    path = write_jsonl(tmp_path / "speech.jsonl", lines)
    corpus = prepare(recipe({"kind": "jsonl", "path": path, "split": "train"}), tmp_path / "corpus")
    (refusal,) = rejected(corpus)
    assert (refusal["recording_id"], refusal["reason"]) == ("b", "missing_audio")


def test_a_mistyped_path_is_an_error_and_leaves_nothing(tmp_path):
    with pytest.raises(SourceError, match=r"spech\.jsonl: no such file"):
        prepare(recipe({"kind": "jsonl", "path": tmp_path / "spech.jsonl"}), tmp_path / "corpus")
    assert not list(tmp_path.iterdir())


def test_a_corpus_without_an_utterance_is_an_error_that_says_why(tmp_path):
    lines = [{"id": str(number), "audio": "none.wav", "text": "שלום"} for number in range(3)]
    path = write_jsonl(tmp_path / "speech.jsonl", lines)
    with pytest.raises(CorpusError, match="3 recordings: missing_audio 3"):
        prepare(recipe({"kind": "jsonl", "path": path}), tmp_path / "corpus")
    assert [file.name for file in tmp_path.iterdir()] == ["speech.jsonl"]


def test_a_finished_corpus_is_not_written_over_unless_told(jsonl_of_tones, tmp_path):
    source = {"kind": "jsonl", "path": jsonl_of_tones(3), "split": "train"}
    first = prepare(recipe(source), tmp_path / "corpus")
    with pytest.raises(CorpusError, match="already holds a corpus"):
        prepare(recipe(source), tmp_path / "corpus")
    again = prepare(recipe(source), tmp_path / "corpus", overwrite=True)
    assert again.fingerprint == first.fingerprint


def test_a_folder_that_is_no_corpus_is_left_alone(jsonl_of_tones, tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis/chapter.txt").write_text("years of work")
    with pytest.raises(CorpusError, match="not a corpus"):
        prepare(recipe({"kind": "jsonl", "path": jsonl_of_tones(3)}), tmp_path / "thesis", overwrite=True)
    assert (tmp_path / "thesis/chapter.txt").exists()


def test_what_is_not_the_fault_of_a_recording_stops_the_job_and_keeps_what_was_done(jsonl_of_tones, tmp_path):
    source = {"kind": "jsonl", "path": jsonl_of_tones(70), "split": "train"}
    work = tmp_path / "corpus.partial"
    (work / "parts").mkdir(parents=True)
    plan = make_plan(recipe(source).data)
    (work / "parts" / plan.keys[1][:2]).touch()  # a file where a folder must be: the storage is broken
    with pytest.raises(ray.exceptions.RayTaskError, match=r"FileExistsError|NotADirectoryError"):
        prepare(recipe(source), tmp_path / "corpus")
    assert not (tmp_path / "corpus").exists()
    assert len(list(work.glob("parts/*/*.ledger.arrow"))) < len(plan.keys)

    (work / "parts" / plan.keys[1][:2]).unlink()
    assert prepare(recipe(source), tmp_path / "corpus").manifest["num_utterances"] == 70


def test_a_file_that_turns_out_wrong_in_a_task_is_our_error(tmp_path):
    write_parquet(tmp_path / "a.parquet", [crowd_row("a")], CROWD_TRANSCRIBE)
    write_parquet(tmp_path / "b.parquet", [slice_row("e", "א")], WHISPER_TRAINING)
    source = {"kind": "hub_parquet", "path": tmp_path / "*.parquet", "layout": "crowd_transcribe"}
    with pytest.raises(SourceError, match=r"b\.parquet: no column uuid"):
        prepare(recipe(source), tmp_path / "corpus")


def test_a_source_that_fails_in_the_middle_keeps_what_was_done(jsonl_of_tones, tmp_path):
    good = {"kind": "jsonl", "path": jsonl_of_tones(70), "split": "train"}
    write_parquet(tmp_path / "a.parquet", [crowd_row("a")], CROWD_TRANSCRIBE)
    write_parquet(tmp_path / "b.parquet", [slice_row("e", "א")], WHISPER_TRAINING)
    wrong = {"kind": "hub_parquet", "path": tmp_path / "?.parquet", "layout": "crowd_transcribe"}
    with pytest.raises(SourceError, match="no column uuid"):
        prepare(recipe(good, wrong), tmp_path / "corpus")
    assert list((tmp_path / "corpus.partial").glob("parts/*/*.ledger.arrow"))

    seen = []
    prepare(recipe(good), tmp_path / "corpus", on_progress=seen.append)
    assert seen[-1].num_rows_reused > 0


def test_progress_reaches_the_whole(jsonl_of_tones, tmp_path):
    seen = []
    prepare(recipe({"kind": "jsonl", "path": jsonl_of_tones(150)}), tmp_path / "corpus", on_progress=seen.append)
    rows = [progress for progress in seen if progress.stage == "rows"]
    assert [progress.num_rows for progress in rows] == [150] * 7
    assert sorted(progress.num_rows_done for progress in rows) == [progress.num_rows_done for progress in rows]
    assert (seen[-1].num_rows_done, seen[-1].num_shards_done) == (150, seen[-1].num_shards)
    assert seen[-1].hours > rows[0].hours > 0


def test_how_long_it_took_is_written_beside_the_corpus(jsonl_of_tones, tmp_path):
    corpus = prepare(recipe({"kind": "jsonl", "path": jsonl_of_tones(3)}), tmp_path / "corpus")
    assert json.loads((corpus.path / "prepare.json").read_text())["rtfx"] > 0


def test_a_folder_that_is_no_corpus_does_not_open(tmp_path):
    with pytest.raises(CorpusError, match="not a prepared corpus"):
        Corpus.open(tmp_path)
