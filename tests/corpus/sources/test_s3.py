"""Against a real S3 protocol server on this machine, and a proxy before it that stumbles."""

import time

import pytest

from caspi.corpus.sources import asking, files, plan_chunks, read_rows
from caspi.errors import SourceError
from tests.corpus.conftest import recipe, tone, write_jsonl
from tests.corpus.sources.conftest import TEXTS, WRITERS, each_kind, jsonl, rows_of
from tests.object_store import upload


@each_kind
def test_every_kind_reads_from_a_bucket_what_it_reads_from_a_disk(tmp_path, s3_client, bucket, kind):
    path = WRITERS[kind](tmp_path)
    upload(s3_client, tmp_path)

    local = rows_of({"kind": kind, "path": f"{tmp_path}/{path}", "name": "mine"})
    remote = rows_of({"kind": kind, "path": f"s3://{bucket}/{path}", "name": "mine"})

    assert [row.transcript for row in remote] == list(TEXTS.values())
    for one, other in zip(local, remote, strict=True):
        assert (one.row_id, one.recording_id, one.encoded) == (other.row_id, other.recording_id, other.encoded)
        assert other.problem is None and other.path.startswith("s3://")


def test_a_pattern_finds_objects(tmp_path, s3_client, bucket):
    for place in ("2024", "2025"):
        (tmp_path / place).mkdir()
        (tmp_path / place / "a.wav").write_bytes(tone(0.1))
        write_jsonl(tmp_path / place / "speech.jsonl", [{"audio": "a.wav", "text": place}])
    upload(s3_client, tmp_path)
    rows = rows_of(jsonl(f"s3://{bucket}/*/speech.jsonl"))
    assert [(row.transcript, row.row_id) for row in rows] == [
        ("2024", "speech/2024/speech:1"),
        ("2025", "speech/2025/speech:1"),
    ]
    assert len(rows_of(jsonl(f"s3://{bucket}/202{{4,5}}/speech.jsonl"))) == 2
    assert len(rows_of(jsonl(f"s3://{bucket}"))) == 2


@pytest.mark.parametrize("path", ["gone.jsonl", "gone/*.jsonl", "*.x"])
def test_what_matches_nothing_is_an_error(s3_client, bucket, path):
    s3_client.put_object(Bucket=bucket, Key="speech.txt", Body=b"x")
    with pytest.raises(SourceError, match=r"no such file|matches no file"):
        rows_of(jsonl(f"s3://{bucket}/{path}"))


def test_a_bucket_that_is_not_there_is_an_error(bucket):
    with pytest.raises(SourceError, match="no such file or folder"):
        rows_of(jsonl("s3://nobodys-bucket/speech.jsonl"))


def test_a_missing_object_is_a_row_with_a_problem(s3_client, bucket, tmp_path):
    lines = [{"id": "a", "audio": "gone.wav", "text": "א"}, {"id": "b", "audio": "s3://nobodys/a.wav", "text": "ב"}]
    write_jsonl(tmp_path / "speech.jsonl", lines)
    upload(s3_client, tmp_path)
    assert [row.problem[0] for row in rows_of(jsonl(f"s3://{bucket}/speech.jsonl"))] == ["missing_audio"] * 2


def test_names_with_any_characters_are_found(s3_client, bucket, tmp_path):
    name = "שיחה #1? 50% [a]+&.wav"
    s3_client.put_object(Bucket=bucket, Key=f"deep/{name}", Body=tone(0.1))
    s3_client.put_object(Bucket=bucket, Key=f"deep/{name[:-4]}.txt", Body="שלום".encode())
    (row,) = rows_of({"kind": "folder", "path": f"s3://{bucket}/deep"})
    assert (row.transcript, row.encoded, row.problem) == ("שלום", tone(0.1), None)


def test_a_changed_object_changes_the_version(s3_client, bucket):
    s3_client.put_object(Bucket=bucket, Key="a", Body=b"x")
    before = files.find_file(f"s3://{bucket}/a")
    s3_client.put_object(Bucket=bucket, Key="a", Body=b"xy")
    assert before.version != files.find_file(f"s3://{bucket}/a").version


@pytest.mark.parametrize("how", ["busy", "hang up", "stop in the middle"])
@pytest.mark.parametrize("kind", ["folder", "hub_parquet", "webdataset"])
def test_a_store_that_stumbles_is_asked_again(tmp_path, s3_client, proxy, kind, how):
    path = WRITERS[kind](tmp_path)
    upload(s3_client, tmp_path)
    expected = rows_of({"kind": kind, "path": f"{tmp_path}/{path}", "name": "mine"})
    proxy.how, proxy.failures = how, 3  # more than Arrow itself tries

    rows = rows_of({"kind": kind, "path": f"s3://speech/{path}", "name": "mine"})

    assert proxy.failures < 0
    assert [(row.row_id, row.encoded) for row in rows] == [(row.row_id, row.encoded) for row in expected]


@pytest.mark.parametrize("how", ["busy", "hang up", "stop in the middle"])
def test_half_an_answer_is_never_taken_for_the_whole(s3_client, proxy, how):
    content = tone(5.0)
    s3_client.put_object(Bucket="speech", Key="long.wav", Body=content)
    proxy.how, proxy.failures = how, 3
    assert files.read_bytes("s3://speech/long.wav") == content
    assert proxy.failures < 0
    with files.open_file("s3://speech/long.wav") as opened:
        proxy.failures = 3
        assert opened.read() == content
    assert proxy.failures < 0


def test_a_store_that_is_away_is_a_clear_error_within_the_deadline(s3_client, proxy, monkeypatch):
    s3_client.put_object(Bucket="speech", Key="a.wav", Body=b"x")
    monkeypatch.setattr(asking, "DEADLINE_S", 3.0)
    proxy.failures = 10**9
    started = time.monotonic()
    with pytest.raises(SourceError, match=r"s3://speech/a\.wav: no answer within 3 s; the last was: .*(503|SLOW_DOWN)"):
        files.read_bytes("s3://speech/a.wav")
    assert time.monotonic() - started < 15


@each_kind
def test_an_outage_while_rows_are_read_is_an_error_and_no_row(tmp_path, s3_client, proxy, monkeypatch, kind):
    path = WRITERS[kind](tmp_path)
    upload(s3_client, tmp_path)
    data = recipe({"kind": kind, "path": f"s3://speech/{path}"}).data
    (chunk,) = plan_chunks(data)
    monkeypatch.setattr(asking, "DEADLINE_S", 0.3)
    proxy.failures, proxy.how = 10**9, "hang up"
    with pytest.raises(SourceError, match="no answer within"):
        list(read_rows(chunk, data))
