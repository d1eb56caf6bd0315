import pyarrow as pa
import pytest

from caspi.corpus.sources import plan_chunks, read_rows, source_names
from caspi.errors import SourceError
from tests.corpus.conftest import (
    AUDIO,
    CROWD_TRANSCRIBE,
    WHISPER_TRAINING,
    crowd_row,
    recipe,
    slice_row,
    tone,
    write_jsonl,
    write_parquet,
)


def rows_of(*sources, **data):
    data = recipe(*sources, **data).data
    return [row for chunk in plan_chunks(data) for row in read_rows(chunk, data)]


def hub(path, **values):
    return {"kind": "hub_parquet", "path": path, **values}


def jsonl(path, **values):
    return {"kind": "jsonl", "path": path, **values}


# --- parquet as the hub stores it ---


def test_crowd_transcribe_gives_uuid_sentence_and_set_flags(tmp_path):
    rows = [crowd_row("u1", "שלום"), crowd_row("u2", noisy=True, skipped=True)]
    write_parquet(tmp_path / "data/train-00000-of-00001.parquet", rows, CROWD_TRANSCRIBE)

    first, second = rows_of(hub(tmp_path / "data"))

    assert (first.row_id, first.recording_id, first.transcript, first.flags) == ("u1", "u1", "שלום", ())
    assert second.flags == ("noisy", "skipped")
    assert first.encoded == tone()
    assert "7351" not in repr(first) and "Firefox" not in repr(first)


def test_whisper_training_slices_share_their_recording(tmp_path):
    rows = [slice_row("e1", "<|0.00|>א<|1.00|>"), slice_row("e1", "<|0.00|>ב<|1.00|>", seek=28.5), slice_row("e2", "ג")]
    path = write_parquet(tmp_path / "train.parquet", rows, WHISPER_TRAINING)

    first, second, third = rows_of(hub(path))

    assert first.recording_id == second.recording_id == "recital/e1"
    assert (first.row_id, second.row_id) == ("recital/e1@0.00", "recital/e1@28.50")
    assert third.recording_id == "recital/e2"
    assert first.is_timed


def test_whisper_training_does_without_metadata(tmp_path):
    schema = pa.schema([("audio", AUDIO), ("transcript", pa.string())])
    rows = [{"audio": {"bytes": tone(), "path": None}, "transcript": "א"}]
    (row,) = rows_of(hub(write_parquet(tmp_path / "slices.parquet", rows, schema)))
    assert row.row_id == row.recording_id == "slices/slices:1"
    assert row.quality_score is None


def test_named_columns(tmp_path):
    schema = pa.schema([("sound", AUDIO), ("words", pa.string()), ("number", pa.int32()), ("who", pa.string())])
    rows = [{"sound": {"bytes": tone()}, "words": "שלום", "number": 5, "who": "dana"}]
    path = write_parquet(tmp_path / "x.parquet", rows, schema)
    columns = {"audio_column": "sound", "text_column": "words", "id_column": "number", "speaker_column": "who"}

    (row,) = rows_of(hub(path, layout="columns", **columns))

    assert (row.row_id, row.recording_id, row.speaker_id, row.transcript) == ("5", "5", "dana", "שלום")


def test_files_and_folders_say_their_split(tmp_path):
    write_parquet(tmp_path / "data/train-00000-of-00001.parquet", [crowd_row("a")], CROWD_TRANSCRIBE)
    write_parquet(tmp_path / "data/test-00000-of-00001.parquet", [crowd_row("b")], CROWD_TRANSCRIBE)
    write_parquet(tmp_path / "data/validation/0000.parquet", [crowd_row("c")], CROWD_TRANSCRIBE)

    assert {row.row_id: row.split for row in rows_of(hub(tmp_path))} == {"a": None, "b": "test", "c": "validation"}
    assert {row.split for row in rows_of(hub(tmp_path, split="train"))} == {"train"}


def test_a_source_with_its_own_test_gives_none_of_its_rest_to_the_test(tmp_path):
    write_parquet(tmp_path / "train.parquet", [crowd_row("a")], CROWD_TRANSCRIBE)
    write_parquet(tmp_path / "test.parquet", [crowd_row("b")], CROWD_TRANSCRIBE)
    chunks = plan_chunks(recipe(hub(tmp_path)).data)
    assert all(chunk.drawn_splits == ["validation"] for chunk in chunks)


@pytest.mark.parametrize("row_group_size", [7, 1000])
def test_large_files_are_cut_into_chunks_that_hold_every_row_once(tmp_path, row_group_size):
    audio = tone(0.1)
    rows = [crowd_row(f"u{number}", audio=audio) for number in range(300)]
    path = write_parquet(tmp_path / "train.parquet", rows, CROWD_TRANSCRIBE, row_group_size)

    chunks = plan_chunks(recipe(hub(path)).data)

    assert len(chunks) > 1
    assert sum(chunk.num_rows for chunk in chunks) == 300
    assert [row.row_id for row in rows_of(hub(path))] == [f"u{number}" for number in range(300)]


def test_rows_without_ids_are_named_by_file_and_number(tmp_path):
    schema = pa.schema([("audio", AUDIO), ("text", pa.string())])
    rows = [{"audio": {"bytes": tone(0.1)}, "text": "א"}] * 300
    write_parquet(tmp_path / "he/test/0000.parquet", rows, schema)
    named = rows_of(hub(tmp_path, layout="columns", name="fleurs"))
    assert [row.row_id for row in named] == [f"fleurs/he/test/0000:{number + 1}" for number in range(300)]


def test_a_row_with_only_a_name_lacks_its_audio(tmp_path):
    row = {**crowd_row("a"), "audio": {"bytes": None, "path": "a.mp3"}}
    (read,) = rows_of(hub(write_parquet(tmp_path / "train.parquet", [row], CROWD_TRANSCRIBE)))
    assert read.problem[0] == "missing_audio"


def test_unknown_columns_are_named(tmp_path):
    path = write_parquet(tmp_path / "x.parquet", [{"text": "א"}], pa.schema([("text", pa.string())]))
    with pytest.raises(SourceError, match="columns text are neither"):
        rows_of(hub(path))
    with pytest.raises(SourceError, match="no column audio"):
        rows_of(hub(path, layout="columns"))


def test_what_is_not_parquet_is_named(tmp_path):
    (tmp_path / "x.parquet").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(SourceError, match=r"x\.parquet: not a parquet file"):
        rows_of(hub(tmp_path))


# --- JSON lines ---


def test_jsonl_reads_audio_beside_it(tmp_path):
    (tmp_path / "a.wav").write_bytes(tone())
    line = {"id": "a", "audio": "a.wav", "text": "language Hebrew<asr_text>שלום", "speaker": "dana", "recording_id": 17}
    (row,) = rows_of(jsonl(write_jsonl(tmp_path / "speech.jsonl", [line])))

    assert row.encoded == tone()
    assert (row.row_id, row.recording_id, row.speaker_id) == ("a", "17", "dana")
    assert row.transcript == "שלום"


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ({"audio": "missing.wav", "text": "א"}, "missing_audio"),
        ({"audio": "", "text": "א"}, "missing_audio"),
        ({"text": "א"}, "missing_audio"),
        ({"audio": ".", "text": "א"}, "missing_audio"),
        ({"audio": "a.wav", "text": 5}, "malformed_row"),
        ("{broken", "malformed_row"),
        ('["a.wav"]', "malformed_row"),
        ({"audio": "a.wav", "text": "א", "side": "left"}, "unknown_split"),
    ],
)
def test_a_broken_line_is_a_row_with_a_problem(tmp_path, line, reason):
    (tmp_path / "a.wav").write_bytes(tone())
    good = {"audio": "a.wav", "text": "א", "side": "dev"}
    path = write_jsonl(tmp_path / "speech.jsonl", [good, line, "", good])

    first, broken, last = rows_of(jsonl(path, split_key="side"))

    assert broken.problem[0] == reason
    assert (first.problem, last.problem, first.split) == (None, None, "validation")
    assert [first.row_id, broken.row_id, last.row_id] == [f"speech/speech:{number}" for number in (1, 2, 3)]


def test_long_files_are_cut_at_lines(tmp_path):
    lines = [{"id": f"ש{number}", "audio": "x", "text": "א"} for number in range(200)]
    path = write_jsonl(tmp_path / "speech.jsonl", lines)
    assert len(plan_chunks(recipe(jsonl(path)).data)) == 4
    assert [row.row_id for row in rows_of(jsonl(path))] == [line["id"] for line in lines]


# --- folders ---


def test_a_folder_pairs_audio_with_text(tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep/a.mp3").write_bytes(tone())
    (tmp_path / "deep/a.txt").write_text("\ufeffשלום\n", encoding="utf-8")
    (tmp_path / "b.wav").write_bytes(tone())
    (tmp_path / "c.txt").write_text("לבד", encoding="utf-8")
    (tmp_path / "cover.jpg").write_bytes(b"picture")

    rows = {row.row_id: row for row in rows_of({"kind": "folder", "path": tmp_path})}

    assert set(rows) == {"deep/a.mp3", "b.wav", "c.txt"}
    assert (rows["deep/a.mp3"].transcript.strip(), rows["deep/a.mp3"].recording_id) == ("שלום", "deep/a")
    assert rows["b.wav"].problem[0] == "missing_text"
    assert rows["c.txt"].problem[0] == "missing_audio"


# --- all kinds ---


@pytest.mark.parametrize("kind", ["hub_parquet", "jsonl", "folder"])
def test_a_mistyped_path_is_an_error(tmp_path, kind):
    with pytest.raises(SourceError, match="no such"):
        rows_of({"kind": kind, "path": tmp_path / "spech"})


@pytest.mark.parametrize("kind", ["hub_parquet", "jsonl", "folder"])
def test_an_empty_folder_is_an_error(tmp_path, kind):
    with pytest.raises(SourceError, match="in this folder"):
        rows_of({"kind": kind, "path": tmp_path})


def test_a_pattern_without_a_match_is_an_error(tmp_path):
    with pytest.raises(SourceError, match="matches no file"):
        rows_of(hub(tmp_path / "*.parquet"))


def test_a_store_that_nobody_can_read_is_an_error():
    with pytest.raises(SourceError, match="nosuch://"):
        rows_of(jsonl("nosuch://bucket/speech.jsonl"))


def test_urls_are_read_like_paths(tmp_path):
    (tmp_path / "a.wav").write_bytes(tone())
    path = write_jsonl(tmp_path / "speech.jsonl", [{"id": "a", "audio": "a.wav", "text": "א"}])
    (row,) = rows_of(jsonl(f"file://{path}"))
    assert row.encoded == tone()


def test_sources_that_share_a_name_are_numbered():
    sources = [
        jsonl("a/train.jsonl"),
        jsonl("b/a/train.jsonl"),
        jsonl("c.jsonl"),
        hub("he-5/data/*.parquet", name="mine"),
    ]
    assert source_names(recipe(*sources).data) == ["a", "a-2", "c", "mine"]
