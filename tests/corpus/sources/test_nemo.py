import io
import tarfile

import pytest

from caspi.errors import SourceError
from tests.corpus.conftest import tone, write_jsonl
from tests.corpus.sources.conftest import chunks_of, rows_of


def nemo(path, **values):
    return {"kind": "nemo", "path": path, **values}


def line(file="a.wav", text="שלום", duration=1.0, **values):
    return {"audio_filepath": file, "duration": duration, "text": text, **values}


def test_a_line_is_a_row(tmp_path):
    (tmp_path / "wav").mkdir()
    (tmp_path / "wav/a.wav").write_bytes(tone())
    said = line("wav/a.wav", speaker="dana", lang="he", pred_text="הלו")
    path = write_jsonl(tmp_path / "train.json", [said, line(str(tmp_path / "wav/a.wav"))])

    first, second = rows_of(nemo(path, name="radio"))

    assert (first.row_id, first.recording_id, first.speaker_id) == ("radio/train:1", "wav/a.wav", "dana")
    assert (first.transcript, first.segments, first.encoded) == ("שלום", None, tone())
    assert second.encoded == tone()
    assert "הלו" not in repr(first)


def test_neighbouring_spans_of_a_file_are_one_row(tmp_path):
    (tmp_path / "a.wav").write_bytes(tone())
    (tmp_path / "b.wav").write_bytes(tone())
    spans = [
        line(offset=5.0, text="ב", speaker="y"),
        line(offset=0.0, text="א", speaker="x", duration=2.5),
        line("b.wav", offset=0.0),
        line(offset=9.0, text="ג"),
        line("b.wav"),
    ]

    first, second, third, whole = rows_of(nemo(write_jsonl(tmp_path / "m.json", spans), name="m"))

    assert [(one.start_s, one.end_s, one.text, one.speaker_id) for one in first.segments] == [
        (0.0, 2.5, "א", "x"),
        (5.0, 6.0, "ב", "y"),
    ]
    assert [one.segment_id for one in first.segments] == ["m/m:2", "m/m:1"]
    assert (first.row_id, first.recording_id, first.transcript, first.speaker_id) == ("m/m:1", "a.wav", None, None)
    assert (second.recording_id, len(second.segments)) == ("b.wav", 1)
    assert third.recording_id == first.recording_id and third.row_id == "m/m:4"
    assert (whole.segments, whole.transcript) == (None, "שלום")


def test_chunks_never_cut_through_a_recording(tmp_path):
    (tmp_path / "0.wav").write_bytes(tone(0.1))
    spans = [line(f"{number // 7}.wav", offset=number % 7, id=f"u{number}") for number in range(1000)]
    path = write_jsonl(tmp_path / "m.json", spans)

    chunks = chunks_of(nemo(path))
    rows = rows_of(nemo(path))

    assert len(chunks) == 7 and sum(chunk.num_rows for chunk in chunks) == 143
    assert [len(row.segments) for row in rows] == [7] * 142 + [6]
    assert [one.segment_id for row in rows for one in row.segments] == [f"u{number}" for number in range(1000)]
    assert rows[0].problem is None and rows[1].problem[0] == "missing_audio"


@pytest.mark.parametrize(
    "broken",
    [
        "{broken",
        "[]",
        {"duration": 1.0, "text": "א"},
        line(text=["א"]),
        line(offset="soon"),
        line(offset=-1.0),
        line(offset=1.0, duration=None),
        line(offset=1.0, duration=True),
        '{"audio_filepath": "a.wav", "offset": NaN, "duration": 1.0, "text": "a"}',
        line(offset=1.0, text=5),
    ],
)
def test_a_broken_line_costs_no_neighbour(tmp_path, broken):
    (tmp_path / "a.wav").write_bytes(tone())
    path = write_jsonl(tmp_path / "m.json", [line(offset=0.0), broken, "", line(offset=2.0)])

    first, row, last = rows_of(nemo(path))

    assert row.problem[0] == "malformed_row"
    assert (first.problem, last.problem) == (None, None)
    assert [len(one.segments) for one in (first, last)] == [1, 1]


def test_a_tarred_manifest_needs_its_tars(tmp_path):
    for shard in range(2):
        with tarfile.open(tmp_path / f"audio_{shard}.tar", "w") as tar:
            for name in ("x.wav", f"{shard}.wav"):
                content = tone(0.1, frequency=200 + 100 * shard)
                info = tarfile.TarInfo(name)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    spans = [
        line("x.wav", shard_id=0),
        line("x.wav", shard_id=1),
        line("1-sub1.wav", shard_id=1, offset=0.0, duration=0.1),
        line("y.wav", shard_id=1),
        line("x.wav", shard_id=7),
    ]
    path = write_jsonl(tmp_path / "tarred_audio_manifest.json", spans)

    with pytest.raises(SourceError, match=r"tar_path: audio_\{shard_id\}\.tar"):
        rows_of(nemo(path))
    first, second, part, absent, lost = rows_of(nemo(path, tar_path="audio_{shard_id}.tar"))
    assert (first.encoded, second.encoded) == (tone(0.1, frequency=200), tone(0.1, frequency=300))
    assert (part.encoded, part.recording_id) == (second.encoded, "1.wav")
    assert absent.problem == ("missing_audio", f"{tmp_path}/audio_1.tar holds no y.wav")
    assert lost.problem == ("missing_audio", f"{tmp_path}/audio_7.tar: no such tar")


def test_other_json_is_an_error(tmp_path):
    with pytest.raises(SourceError, match="its lines have audio, text; a NeMo manifest has audio_filepath"):
        rows_of(nemo(write_jsonl(tmp_path / "m.json", [{"audio": "a.wav", "text": "א"}])))
    with pytest.raises(SourceError, match="not one line is JSON"):
        rows_of(nemo(write_jsonl(tmp_path / "n.json", ["a,b", "c,d"])))
    with pytest.raises(SourceError, match="no line in it"):
        rows_of(nemo(write_jsonl(tmp_path / "o.json", [])))
