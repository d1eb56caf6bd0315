import gzip
import json
import sys

import pytest

from caspi.errors import SourceError
from tests.corpus.conftest import tone
from tests.corpus.sources.conftest import chunks_of, rows_of

lhotse = pytest.importorskip("lhotse")

from lhotse.audio import AudioSource  # noqa: E402


def source(path, **values):
    return {"kind": "lhotse", "path": path, **values}


def recording(name="call", duration=10.0, kind="file", path="call.wav", channels=(0,)):
    sources = [AudioSource(kind, list(channels), path)]
    return lhotse.Recording(name, sources, sampling_rate=16000, num_samples=int(duration * 16000), duration=duration)


def supervision(name, start, duration, text="שלום", recording_id="call", **values):
    return lhotse.SupervisionSegment(name, recording_id, start, duration, text=text, **values)


def cut(name, start, duration, *supervisions, of=None, channel=0):
    return lhotse.MonoCut(name, start, duration, channel, list(supervisions), recording=of or recording())


def write(path, items):
    text = "".join((item if isinstance(item, str) else json.dumps(item.to_dict())) + "\n" for item in items).encode()
    path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)
    return path


def reasons(rows):
    return [row.problem and row.problem[0] for row in rows]


@pytest.mark.parametrize("name", ["cuts.jsonl", "cuts.jsonl.gz"])
def test_neighbouring_cuts_of_a_recording_are_one_row(tmp_path, name):
    (tmp_path / "call.wav").write_bytes(tone())
    cuts = [
        cut("c2", 5.0, 3.0, supervision("s2", 0.5, 2.0, "ב", speaker="dana", gender="female")),
        cut("c1", 0.0, 3.0, supervision("s1", 0.0, 1.0, "א"), supervision("s1b", 1.0, 1.0, "א2")),
        cut(
            "c3",
            0.0,
            10.0,
            supervision("s3", 0.0, 10.0, "כולו"),
            of=recording("other", path=str(tmp_path / "call.wav")),
        ),
        cut("c4", 8.0, 1.0, supervision("s4", 0.0, 1.0, "ד")),
    ]

    first, whole, again = rows_of(source(write(tmp_path / name, cuts)))

    assert (first.row_id, first.recording_id, first.encoded) == ("c2", "call", tone())
    assert [(one.segment_id, one.start_s, one.end_s, one.text, one.speaker_id) for one in first.segments] == [
        ("s1", 0.0, 1.0, "א", None),
        ("s1b", 1.0, 2.0, "א2", None),
        ("s2", 5.5, 7.5, "ב", "dana"),
    ]
    assert (whole.row_id, whole.transcript, whole.segments) == ("s3", "כולו", None)
    assert (again.row_id, again.recording_id) == ("c4", "call")
    assert "female" not in repr(first)


def test_what_the_library_itself_writes_is_read(tmp_path):
    (tmp_path / "call.wav").write_bytes(tone())
    recordings = lhotse.RecordingSet.from_recordings([lhotse.Recording.from_file(tmp_path / "call.wav")])
    supervisions = lhotse.SupervisionSet.from_segments([supervision("s1", 0.2, 0.5), supervision("s2", 0.7, 0.2)])
    recordings.to_file(tmp_path / "recordings.jsonl.gz")
    supervisions.to_file(tmp_path / "supervisions.jsonl.gz")
    cuts = lhotse.CutSet.from_manifests(recordings=recordings, supervisions=supervisions)
    cuts.trim_to_supervisions().to_file(tmp_path / "cuts.jsonl.gz")

    (of_cuts,) = rows_of(source(tmp_path / "cuts.jsonl.gz"))
    (of_both,) = rows_of(source(tmp_path / "recordings.jsonl.gz", supervisions=tmp_path / "supervisions.jsonl.gz"))

    for row in (of_cuts, of_both):
        assert (row.recording_id, row.encoded) == ("call", tone())
        assert [(one.segment_id, one.start_s, one.end_s) for one in row.segments] == [
            ("s1", 0.2, pytest.approx(0.7)),
            ("s2", 0.7, pytest.approx(0.9)),
        ]


def test_supervisions_without_a_recording_are_rows(tmp_path):
    (tmp_path / "call.wav").write_bytes(tone())
    recordings = write(tmp_path / "recordings.jsonl", [recording(), recording("silent")])
    supervisions = write(tmp_path / "s.jsonl", [supervision("s1", 0, 1), supervision("s2", 0, 1, recording_id="gone")])
    rows = rows_of(source(recordings, supervisions=supervisions))
    assert [row.recording_id for row in rows] == ["call", "silent", "gone"]
    assert reasons(rows) == [None, "missing_text", "missing_audio"]


def test_audio_that_is_not_simply_a_file_is_a_problem(tmp_path):
    (tmp_path / "call.wav").write_bytes(tone())
    said = supervision("s", 0.0, 1.0)
    changed = recording("changed").perturb_speed(0.9)
    two = lhotse.Recording("two", [*recording().sources, *recording(channels=[1]).sources], 16000, 160000, 10.0)
    padded = cut("padded", 0.0, 1.0, said).pad(duration=2.0)
    cuts = [
        cut("good", 0.0, 1.0, said),
        cut("command", 0.0, 1.0, said, of=recording("a", kind="command", path="cat call.wav")),
        cut("changed", 0.0, 1.0, said, of=changed),
        cut("two", 0.0, 1.0, said, of=two),
        cut("left", 0.0, 1.0, said, of=recording("stereo", channels=[0, 1])),
        cut("gone", 0.0, 1.0, said, of=recording("b", path="gone.wav")),
        padded,
        "{broken",
        '{"type": "MonoCut", "id": "x"}',
    ]

    rows = rows_of(source(write(tmp_path / "cuts.jsonl", cuts)))

    assert reasons(rows) == [
        None,
        "unsupported_audio_source",
        "unsupported_audio_source",
        "unsupported_audio_source",
        "unsupported_channel",
        "missing_audio",
        "unsupported_cut",
        "malformed_row",
        "malformed_row",
    ]


@pytest.mark.parametrize("name", ["cuts.jsonl", "cuts.jsonl.gz"])
def test_long_manifests_are_cut_between_recordings(tmp_path, name):
    (tmp_path / "call.wav").write_bytes(tone())
    cuts = [
        cut(f"c{number}", 0.0, 1.0, supervision(f"s{number}", 0.0, 1.0), of=recording(f"r{number // 3}"))
        for number in range(300)
    ]
    path = write(tmp_path / name, cuts)
    assert [chunk.num_rows for chunk in chunks_of(source(path))] == (
        [64, 36] if name.endswith(".gz") else [16, 16, 16, 16, 32, 4]
    )
    rows = rows_of(source(path))
    assert [row.recording_id for row in rows] == [f"r{number}" for number in range(100)]
    assert [one.segment_id for row in rows for one in row.segments] == [f"s{number}" for number in range(300)]


def test_relative_paths_start_where_the_recipe_says(tmp_path):
    (tmp_path / "wav").mkdir()
    (tmp_path / "wav/call.wav").write_bytes(tone())
    path = write(tmp_path / "cuts.jsonl", [cut("c", 0.0, 1.0, supervision("s", 0.0, 1.0))])
    assert reasons(rows_of(source(path))) == ["missing_audio"]
    assert reasons(rows_of(source(path, audio_root=tmp_path / "wav"))) == [None]


def test_other_manifests_are_errors(tmp_path):
    with pytest.raises(SourceError, match="recordings; say which `supervisions`"):
        chunks_of(source(write(tmp_path / "recordings.jsonl", [recording()])))
    with pytest.raises(SourceError, match="not Lhotse's cuts; its lines have audio, text"):
        chunks_of(source(write(tmp_path / "speech.jsonl", ['{"audio": "a.wav", "text": "x"}'])))
    cuts = write(tmp_path / "cuts.jsonl", [cut("c", 0.0, 1.0)])
    with pytest.raises(SourceError, match="not Lhotse's recordings"):
        chunks_of(source(cuts, supervisions=write(tmp_path / "s.jsonl", [supervision("s", 0, 1)])))
    without_audio = json.dumps({"type": "MonoCut", "id": "c", "start": 0, "duration": 1, "channel": 0, "features": {}})
    with pytest.raises(SourceError, match="cuts without their recordings"):
        chunks_of(source(write(tmp_path / "features.jsonl", [without_audio])))


def test_without_the_library_it_is_said_how_to_install_it(tmp_path, monkeypatch):
    path = write(tmp_path / "cuts.jsonl", [cut("c", 0.0, 1.0)])
    monkeypatch.setitem(sys.modules, "lhotse.serialization", None)
    with pytest.raises(SourceError, match=r"pip install 'caspi\[lhotse\]'"):
        chunks_of(source(path))
