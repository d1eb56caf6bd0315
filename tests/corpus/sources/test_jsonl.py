import pytest

from tests.corpus.conftest import tone, write_jsonl
from tests.corpus.sources.conftest import chunks_of, jsonl, rows_of


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
        ("[" * 100_000, "malformed_row"),
        ({"audio": "a.wav", "text": "\ud800"}, "malformed_row"),
        ({"audio": "a\0.wav", "text": "א"}, "missing_audio"),
        ({"audio": "a" * 5000, "text": "א"}, "missing_audio"),
        ({"audio": "a.wav/b.wav", "text": "א"}, "missing_audio"),
        ({"audio": "nosuch://a.wav", "text": "א"}, "missing_audio"),
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
    assert [chunk.num_rows for chunk in chunks_of(jsonl(path))] == [16] * 4 + [32] * 4 + [8]
    assert [row.row_id for row in rows_of(jsonl(path))] == [line["id"] for line in lines]
