import pyarrow as pa
import pytest

from caspi.corpus.sources import asking, files, plan_chunks, read_rows
from caspi.errors import SourceError
from tests.corpus.conftest import (
    AUDIO,
    COMMON_VOICE,
    CROWD_TRANSCRIBE,
    FLEURS,
    WHISPER_TRAINING,
    crowd_row,
    recipe,
    slice_row,
    tone,
    write_parquet,
)
from tests.corpus.sources.conftest import chunks_of, hub, rows_of


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
    chunks = chunks_of(hub(tmp_path))
    assert all(chunk.drawn_splits == ["validation"] for chunk in chunks)


@pytest.mark.parametrize("row_group_size", [7, 1000])
def test_large_files_are_cut_into_chunks_that_hold_every_row_once(tmp_path, row_group_size):
    audio = tone(0.1)
    rows = [crowd_row(f"u{number}", audio=audio) for number in range(300)]
    path = write_parquet(tmp_path / "train.parquet", rows, CROWD_TRANSCRIBE, row_group_size)

    chunks = chunks_of(hub(path))

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
    with pytest.raises(SourceError, match="columns text are not"):
        rows_of(hub(path))
    with pytest.raises(SourceError, match="no column audio"):
        rows_of(hub(path, layout="columns"))


def test_what_is_not_parquet_is_named(tmp_path):
    (tmp_path / "x.parquet").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(SourceError, match=r"x\.parquet: not a parquet file"):
        rows_of(hub(tmp_path))


def fleurs_row(sentence_id, file, **values):
    audio = {"bytes": tone(0.1), "path": file}
    row = {"id": sentence_id, "path": f"/home/x/he_il/train/{file}", "audio": audio, "gender": 1}
    return {**row, "transcription": "שלום לכם", "raw_transcription": "שלום, לכם!", **values}


def test_fleurs_keeps_a_sentence_together_and_its_readers_apart(tmp_path):
    rows = [fleurs_row(17, "111.wav"), fleurs_row(17, "222.wav"), fleurs_row(18, "333.wav")]
    path = write_parquet(tmp_path / "he_il/train/0000.parquet", rows, FLEURS)

    first, second, third = rows_of(hub(path))

    assert [row.row_id for row in (first, second, third)] == ["111", "222", "333"]
    assert first.recording_id == second.recording_id == "fleurs/17" != third.recording_id
    assert first.transcript == "שלום, לכם!"
    assert rows_of(hub(path, layout="fleurs", text_column="transcription"))[0].transcript == "שלום לכם"


def test_common_voice_rows_hold_nobody(tmp_path):
    row = {"client_id": "f00d" * 32, "path": "he/common_voice_he_1.mp3", "audio": {"bytes": tone(0.1)}}
    row = {**row, "sentence": "שלום", "up_votes": 2, "down_votes": 0, "age": "twenties", "gender": "female"}
    path = write_parquet(tmp_path / "test.parquet", [row, {**row, "path": "common_voice_he_2.mp3"}], COMMON_VOICE)

    first, second = rows_of(hub(path))

    assert (first.row_id, first.transcript, first.split) == ("common_voice_he_1", "שלום", "test")
    assert first.speaker_id == second.speaker_id and len(first.speaker_id) == 16
    assert not any(word in repr(first) for word in ("f00d", "twenties", "female"))


def test_the_text_before_a_slice_comes_along(tmp_path):
    said = "<|0.00|> לפני<|2.00|>"
    rows = [
        {**slice_row("e1", "א"), "has_prev": True, "prev_transcript": said},
        {**slice_row("e1", "ב", seek=30.0), "has_prev": False, "prev_transcript": said},
        {**slice_row("e1", "ג", seek=60.0), "has_prev": True, "prev_transcript": ""},
    ]
    path = write_parquet(tmp_path / "train.parquet", rows, WHISPER_TRAINING)
    assert [row.previous_text for row in rows_of(hub(path))] == [said, None, None]


def test_audio_may_be_plain_bytes_and_text_a_field_of_a_struct(tmp_path):
    info = pa.struct([("text", pa.string()), ("who", pa.string()), ("email", pa.string())])
    rows = [{"sound": tone(0.1), "info": {"text": "שלום", "who": "dana", "email": "dana@example.org"}}]
    path = write_parquet(tmp_path / "x.parquet", rows, pa.schema([("sound", pa.binary()), ("info", info)]))
    columns = {"audio_column": "sound", "text_column": "info.text", "speaker_column": "info.who"}

    (row,) = rows_of(hub(path, layout="columns", **columns))

    assert (row.encoded, row.transcript, row.speaker_id) == (tone(0.1), "שלום", "dana")
    assert "example.org" not in repr(row)
    with pytest.raises(SourceError, match=r"no column info\.words"):
        rows_of(hub(path, layout="columns", audio_column="sound", text_column="info.words"))


def test_a_column_without_audio_in_it_is_an_error(tmp_path):
    path = write_parquet(tmp_path / "x.parquet", [{"audio": "a.wav", "text": "א"}], pa.schema(
        [("audio", pa.string()), ("text", pa.string())]
    ))  # fmt: skip
    with pytest.raises(SourceError, match="the audio column is string"):
        rows_of(hub(path, layout="columns"))


def test_text_that_is_not_utf8_costs_its_own_row_only(tmp_path):
    texts = pa.Array.from_buffers(
        pa.string(), 3, [None, pa.py_buffer(b"\0\0\0\0\x01\0\0\0\x02\0\0\0\x03\0\0\0"), pa.py_buffer(b"a\xffc")]
    )
    audio = pa.array([{"bytes": tone(0.1), "path": None}] * 3, AUDIO)
    pa.parquet.write_table(pa.table({"audio": audio, "text": texts}), tmp_path / "x.parquet")
    problems = [row.problem for row in rows_of(hub(tmp_path, layout="columns"))]
    assert [problem and problem[0] for problem in problems] == [None, "malformed_row", None]


def test_damage_in_the_middle_of_a_file_leaves_the_rows_before_it(tmp_path):
    rows = [crowd_row(f"u{number}", audio=tone(0.1, frequency=200 + number)) for number in range(300)]
    path = write_parquet(tmp_path / "train.parquet", rows, CROWD_TRANSCRIBE, row_group_size=100)
    content = bytearray(path.read_bytes())
    middle = pa.parquet.ParquetFile(path).metadata.row_group(1).column(1).data_page_offset
    content[middle : middle + 400] = bytes(400)
    path.write_bytes(content)

    read = rows_of(hub(path))

    assert len(read) == 300
    assert all(row.problem is None for row in [*read[:100], *read[200:]])
    assert all(row.problem[0] == "malformed_row" and "damaged from row 101" in row.problem[1] for row in read[100:200])


def test_an_outage_within_a_file_is_an_error_and_no_row(tmp_path, monkeypatch):
    rows = [{"audio": bytes(60_000), "text": str(number)} for number in range(500)]
    table = pa.Table.from_pylist(rows, schema=pa.schema([("audio", pa.binary()), ("text", pa.string())]))
    pa.parquet.write_table(table, tmp_path / "x.parquet", write_batch_size=32, compression="none", use_dictionary=False)
    data = recipe(hub(tmp_path, layout="columns")).data
    rows = read_rows(plan_chunks(data)[-1], data)
    next(rows)

    def lose(*_):
        raise ConnectionResetError("reset by peer")

    monkeypatch.setattr(files._RetriedFile, "_read", lose)
    monkeypatch.setattr(asking, "DEADLINE_S", 0.1)
    with pytest.raises(SourceError, match="no answer within"):
        list(rows)
