from dataclasses import asdict

from tests.corpus.conftest import tone
from tests.corpus.sources.conftest import chunks_of, rows_of


def folder(path, **values):
    return {"kind": "folder", "path": path, **values}


def test_a_folder_pairs_audio_with_text(tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep/a.mp3").write_bytes(tone())
    (tmp_path / "deep/a.txt").write_text("\ufeffשלום\n", encoding="utf-8")
    (tmp_path / "b.wav").write_bytes(tone())
    (tmp_path / "c.txt").write_text("לבד", encoding="utf-8")
    (tmp_path / "cover.jpg").write_bytes(b"picture")

    rows = {row.row_id: row for row in rows_of(folder(tmp_path, name="mine"))}

    assert set(rows) == {"mine/deep/a.mp3", "mine/b.wav", "mine/c.txt"}
    assert (rows["mine/deep/a.mp3"].transcript.strip(), rows["mine/deep/a.mp3"].recording_id) == ("שלום", "deep/a")
    assert rows["mine/b.wav"].problem[0] == "missing_text"
    assert rows["mine/c.txt"].problem[0] == "missing_audio"


def test_a_new_file_changes_the_chunk_it_falls_into_and_no_other(tmp_path):
    for number in range(0, 2000, 2):
        (tmp_path / f"{number:04d}.wav").write_bytes(b"")
    before = chunks_of(folder(tmp_path))
    (tmp_path / "0777.wav").write_bytes(b"")
    after = chunks_of(folder(tmp_path))

    assert len(before) > 8
    changed = [chunk for chunk in after if asdict(chunk) not in [asdict(old) for old in before]]
    assert 1 <= len(changed) <= 2  # two if the new file begins a chunk
    assert sum(chunk.num_rows for chunk in after) == 1001


def test_long_recordings_make_small_chunks(tmp_path):
    for number in range(8):
        with open(tmp_path / f"{number}.wav", "wb") as file:
            file.truncate(2**27)  # twice what a chunk should hold
    assert [chunk.num_rows for chunk in chunks_of(folder(tmp_path))] == [1] * 8


def test_a_changed_transcript_changes_the_version(tmp_path):
    (tmp_path / "a.wav").write_bytes(tone(0.1))
    (tmp_path / "a.txt").write_text("שלום", encoding="utf-8")
    (before,) = chunks_of(folder(tmp_path))
    (tmp_path / "a.txt").write_text("שלום לך", encoding="utf-8")
    (after,) = chunks_of(folder(tmp_path))
    assert before.version != after.version
    assert before.files == after.files


def test_a_transcript_that_is_not_utf8_is_a_problem(tmp_path):
    (tmp_path / "a.wav").write_bytes(tone(0.1))
    (tmp_path / "a.txt").write_bytes("שלום".encode("cp1255"))
    (row,) = rows_of(folder(tmp_path))
    assert row.problem[0] == "malformed_row"
