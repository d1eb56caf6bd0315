import gzip
import io
import json
import tarfile

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from caspi.errors import SourceError
from tests.corpus.conftest import tone
from tests.corpus.sources.conftest import chunks_of, rows_of

TONE = tone(0.1)


def webdataset(path, **values):
    return {"kind": "webdataset", "path": path, **values}


def write_tar(path, members, tar_format=tarfile.PAX_FORMAT):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=tar_format) as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def sample(key, text="שלום", audio=TONE, extension="flac"):
    return [(f"{key}.{extension}", audio), (f"{key}.txt", text.encode())]


def reason(row):
    return row.problem and row.problem[0]


def test_files_of_one_name_are_a_sample(tmp_path):
    said = {"text": "מה נשמע", "id": "u2", "recording_id": "r", "speaker": "dana", "email": "dana@example.org"}
    path = write_tar(
        tmp_path / "shard-000.tar",
        [*sample("./deep/a"), ("b.json", json.dumps(said).encode()), ("b.seg.wav", TONE), ("b.noise.npy", b"x")],
    )

    first, second = rows_of(webdataset(path, name="web"))

    assert (first.row_id, first.recording_id) == ("web/shard-000/deep/a", "shard-000/deep/a")
    assert (first.transcript, first.encoded) == ("שלום", TONE)
    assert (second.row_id, second.recording_id, second.speaker_id) == ("u2", "r", "dana")
    assert (second.transcript, second.encoded) == ("מה נשמע", TONE)
    assert "example.org" not in repr(second)


def test_braces_and_globs_name_many_tars(tmp_path):
    for number in range(8, 11):
        write_tar(tmp_path / f"s-{number:03d}.tar", sample("a", f"מספר {number}"))
    by_braces = rows_of(webdataset(tmp_path / "s-{008..010}.tar", name="web"))
    assert [row.transcript for row in by_braces] == ["מספר 8", "מספר 9", "מספר 10"]
    assert rows_of(webdataset(tmp_path / "s-*.tar", name="web")) == by_braces
    assert rows_of(webdataset(tmp_path, name="web")) == by_braces
    with pytest.raises(SourceError, match=r"s-011\.tar: no such file"):
        chunks_of(webdataset(tmp_path / "s-{008..011}.tar"))


def test_audio_is_known_by_its_content_where_no_name_says_it(tmp_path):
    path = write_tar(tmp_path / "a.tar", [("a.audio", TONE), ("a.txt", b"a"), ("b.npy", b"numbers"), ("b.txt", b"b")])
    audio, none = rows_of(webdataset(path))
    assert audio.encoded == TONE
    assert none.problem == ("missing_audio", "the sample has only b.npy, b.txt")


@pytest.mark.parametrize(
    ("extra", "expected"),
    [([("x.wav", TONE), ("x.txt", b"\xff")], "malformed_row"), ([("x.wav", TONE), ("x.json", b"{")], "malformed_row"),
     ([("x.wav", TONE), ("x.json", b'{"text": ["a"]}')], "malformed_row"), ([("x.txt", b"x")], "missing_audio"),
     ([("x.wav", b"")], None), ([(".hidden", b"x"), ("README", b"x"), ("._x.wav", b"x")], None)],
)  # fmt: skip
def test_a_broken_sample_costs_no_neighbour(tmp_path, extra, expected):
    path = write_tar(tmp_path / "a.tar", [*sample("a"), *extra, *sample("z")])
    rows = rows_of(webdataset(path))
    assert [reason(row) for row in rows] in ([None, expected, None], [None, None])
    assert [row.encoded for row in (rows[0], rows[-1])] == [TONE, TONE]


@pytest.mark.parametrize("tar_format", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_long_names_are_whole(tmp_path, tar_format):
    keys = [f"{'ארוך' * 30}/{number}" for number in range(3)]
    path = write_tar(tmp_path / "a.tar", [one for key in keys for one in sample(key)], tar_format)
    assert [row.row_id for row in rows_of(webdataset(path, name="w"))] == [f"w/a/{key}" for key in keys]


def test_large_tars_are_cut_between_samples(tmp_path):
    path = write_tar(tmp_path / "a.tar", [one for number in range(200) for one in sample(f"{number:03d}", str(number))])
    chunks = chunks_of(webdataset(path))
    assert [chunk.num_rows for chunk in chunks] == [64, 64, 64, 8]
    assert [row.transcript for row in rows_of(webdataset(path))] == [str(number) for number in range(200)]


def test_samples_of_many_bytes_are_cut_sooner(tmp_path):
    large = TONE + bytes(30 * 2**20)
    path = write_tar(tmp_path / "a.tar", [one for number in range(5) for one in sample(str(number), audio=large)])
    assert [chunk.num_rows for chunk in chunks_of(webdataset(path))] == [2, 2, 1]


@pytest.mark.parametrize("cut", [1, 511, 512, 700, 1500, 3000])
def test_of_a_tar_that_stops_in_the_middle_the_whole_samples_stay(tmp_path, cut):
    path = write_tar(tmp_path / "a.tar", [one for key in "abc" for one in sample(key)])
    whole = path.read_bytes()
    with tarfile.open(path) as tar:
        last = tar.getmember("c.flac").offset
    path.write_bytes(whole[: last + cut])

    *rows, broken = rows_of(webdataset(path, name="w"))

    assert [row.row_id for row in rows] == ["w/a/a", "w/a/b"]
    assert all(row.problem is None and row.transcript for row in rows)
    assert reason(broken) == "malformed_row" and broken.row_id == f"w/a@{last}"


def test_damage_within_a_tar_is_one_row(tmp_path):
    path = write_tar(tmp_path / "a.tar", [one for number in range(100) for one in sample(str(number))])
    with tarfile.open(path) as tar:
        header = tar.getmember("80.flac").offset
    content = bytearray(path.read_bytes())
    content[header : header + 512] = b"\x7f" * 512
    path.write_bytes(content)

    rows = rows_of(webdataset(path))

    assert len(rows) == 81
    assert [reason(row) for row in rows] == [None] * 80 + ["malformed_row"]
    assert f"byte {header}" in rows[-1].problem[1]


def test_a_tar_that_is_none_costs_no_other(tmp_path):
    write_tar(tmp_path / "a.tar", sample("a"))
    (tmp_path / "b.tar").write_bytes(b"")
    (tmp_path / "c.tar").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    write_tar(tmp_path / "d.tar", [])
    assert [reason(row) for row in rows_of(webdataset(tmp_path))] == [None, "malformed_row", "malformed_row"]


def test_tars_that_are_of_no_use_are_errors(tmp_path):
    with pytest.raises(SourceError, match=r"no audio in 1 tars; .* a\.jpg, a\.txt"):
        chunks_of(webdataset(write_tar(tmp_path / "a.tar", [("a.jpg", b"x"), ("a.txt", b"x")])))
    (tmp_path / "b.tar").write_bytes(gzip.compress((tmp_path / "a.tar").read_bytes()))
    with pytest.raises(SourceError, match="compressed by gzip; unpack it"):
        chunks_of(webdataset(tmp_path / "b.tar"))
    (tmp_path / "c.tar").write_bytes(b"no tar")
    with pytest.raises(SourceError, match="no audio in 1 tars; not a tar"):
        chunks_of(webdataset(tmp_path / "c.tar"))


names = st.text("ab.é/", min_size=1, max_size=6).filter(lambda name: not name.endswith("/") and "//" not in name)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(st.tuples(names, st.sampled_from(["wav", "txt", "json", ""])), max_size=12))
def test_samples_are_runs_of_names_equal_up_to_the_first_dot(tmp_path, members):
    files = [(f"{name}.{extension}" if extension else name, b"{}") for name, extension in members]
    files = [(name.lstrip("/") or "x", content) for name, content in files]
    path = write_tar(tmp_path / "a.tar", [("first.wav", TONE), *files])
    expected = []
    for name, _ in files:
        folder, _, base = name.removeprefix("./").rpartition("/")
        stem, dot, _ = base.partition(".")
        key = f"{folder}/{stem}" if folder else stem
        if stem and dot and expected[-1:] != [key]:
            expected.append(key)

    rows = rows_of(webdataset(path, name="w"))

    found = [row.row_id.removeprefix("w/a/") for row in rows]
    assert found == ["first", *expected][: len(found)] and len(found) >= len(expected)
