"""Against a real S3 protocol server on this machine, and a proxy before it that stumbles."""

import http.client
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import boto3
import pytest
from moto.server import ThreadedMotoServer

from caspi.corpus.sources import asking, files, plan_chunks, read_rows
from caspi.errors import SourceError
from tests.corpus.conftest import recipe, tone, write_jsonl
from tests.corpus.sources.conftest import TEXTS, WRITERS, each_kind, jsonl, rows_of

BUSY = b"<?xml version='1.0'?><Error><Code>SlowDown</Code><Message>Reduce your rate.</Message></Error>"


class Proxy(ThreadingHTTPServer):
    """Passes requests on to a server, but fails `failures` of them first: `busy`, `hang up` or `stop in the middle`."""

    daemon_threads = True

    def __init__(self, port: int) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.behind = port
        self.failures, self.how = 0, "busy"
        self.lock = threading.Lock()

    def fails_now(self) -> bool:
        with self.lock:
            self.failures -= 1
            return self.failures >= 0


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Proxy

    def do_GET(self) -> None:
        fails = self.server.fails_now()
        if fails and self.server.how == "hang up":
            self.close_connection = True
            return
        if fails and self.server.how == "busy":
            self.send_response(503)
            self.send_header("Content-Length", str(len(BUSY)))
            self.end_headers()
            self.wfile.write(BUSY if self.command == "GET" else b"")
            return
        connection = http.client.HTTPConnection("127.0.0.1", self.server.behind)
        connection.request(self.command, self.path, headers=dict(self.headers))
        answer = connection.getresponse()
        content = answer.read()
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in ("content-length", "connection", "date", "server", "transfer-encoding"):
                self.send_header(name, value)
        self.send_header("Content-Length", answer.headers["Content-Length"] or str(len(content)))
        self.end_headers()
        if fails:
            self.wfile.write(content[: len(content) // 2])
            self.close_connection = True
        else:
            self.wfile.write(content)

    do_HEAD = do_GET

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def server() -> Iterator[ThreadedMotoServer]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def client(server: ThreadedMotoServer):
    endpoint = "http://{}:{}".format(*server.get_host_and_port())
    return boto3.client(
        "s3", endpoint_url=endpoint, region_name="us-east-1", aws_access_key_id="x", aws_secret_access_key="y"
    )


@pytest.fixture
def bucket(client, server: ThreadedMotoServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A bucket of its own for each test, and the environment that leads there."""
    for name, value in (("AWS_ACCESS_KEY_ID", "x"), ("AWS_SECRET_ACCESS_KEY", "y"), ("AWS_REGION", "us-east-1")):
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://{}:{}".format(*server.get_host_and_port()))
    monkeypatch.setattr(asking, "_FIRST_PAUSE_S", 0.01)
    client.create_bucket(Bucket="speech")
    yield "speech"
    for page in client.get_paginator("list_objects_v2").paginate(Bucket="speech"):
        for found in page.get("Contents", []):
            client.delete_object(Bucket="speech", Key=found["Key"])
    client.delete_bucket(Bucket="speech")


@pytest.fixture
def proxy(bucket: str, server: ThreadedMotoServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    proxy = Proxy(server.get_host_and_port()[1])
    threading.Thread(target=proxy.serve_forever, daemon=True).start()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{proxy.server_address[1]}")
    yield proxy
    proxy.shutdown()
    proxy.server_close()


def upload(client, folder: Path) -> None:
    for file in sorted(folder.rglob("*")):
        if file.is_file():
            client.put_object(Bucket="speech", Key=str(file.relative_to(folder)), Body=file.read_bytes())


@each_kind
def test_every_kind_reads_from_a_bucket_what_it_reads_from_a_disk(tmp_path, client, bucket, kind):
    path = WRITERS[kind](tmp_path)
    upload(client, tmp_path)

    local = rows_of({"kind": kind, "path": f"{tmp_path}/{path}", "name": "mine"})
    remote = rows_of({"kind": kind, "path": f"s3://{bucket}/{path}", "name": "mine"})

    assert [row.transcript for row in remote] == list(TEXTS.values())
    for one, other in zip(local, remote, strict=True):
        assert (one.row_id, one.recording_id, one.encoded) == (other.row_id, other.recording_id, other.encoded)
        assert other.problem is None and other.path.startswith("s3://")


def test_a_pattern_finds_objects(tmp_path, client, bucket):
    for place in ("2024", "2025"):
        (tmp_path / place).mkdir()
        (tmp_path / place / "a.wav").write_bytes(tone(0.1))
        write_jsonl(tmp_path / place / "speech.jsonl", [{"audio": "a.wav", "text": place}])
    upload(client, tmp_path)
    rows = rows_of(jsonl(f"s3://{bucket}/*/speech.jsonl"))
    assert [(row.transcript, row.row_id) for row in rows] == [
        ("2024", "speech/2024/speech:1"),
        ("2025", "speech/2025/speech:1"),
    ]
    assert len(rows_of(jsonl(f"s3://{bucket}/202{{4,5}}/speech.jsonl"))) == 2
    assert len(rows_of(jsonl(f"s3://{bucket}"))) == 2


@pytest.mark.parametrize("path", ["gone.jsonl", "gone/*.jsonl", "*.x"])
def test_what_matches_nothing_is_an_error(client, bucket, path):
    client.put_object(Bucket=bucket, Key="speech.txt", Body=b"x")
    with pytest.raises(SourceError, match=r"no such file|matches no file"):
        rows_of(jsonl(f"s3://{bucket}/{path}"))


def test_a_bucket_that_is_not_there_is_an_error(bucket):
    with pytest.raises(SourceError, match="no such file or folder"):
        rows_of(jsonl("s3://nobodys-bucket/speech.jsonl"))


def test_a_missing_object_is_a_row_with_a_problem(client, bucket, tmp_path):
    lines = [{"id": "a", "audio": "gone.wav", "text": "א"}, {"id": "b", "audio": "s3://nobodys/a.wav", "text": "ב"}]
    write_jsonl(tmp_path / "speech.jsonl", lines)
    upload(client, tmp_path)
    assert [row.problem[0] for row in rows_of(jsonl(f"s3://{bucket}/speech.jsonl"))] == ["missing_audio"] * 2


def test_names_with_any_characters_are_found(client, bucket, tmp_path):
    name = "שיחה #1? 50% [a]+&.wav"
    client.put_object(Bucket=bucket, Key=f"deep/{name}", Body=tone(0.1))
    client.put_object(Bucket=bucket, Key=f"deep/{name[:-4]}.txt", Body="שלום".encode())
    (row,) = rows_of({"kind": "folder", "path": f"s3://{bucket}/deep"})
    assert (row.transcript, row.encoded, row.problem) == ("שלום", tone(0.1), None)


def test_a_changed_object_changes_the_version(client, bucket):
    client.put_object(Bucket=bucket, Key="a", Body=b"x")
    before = files.find_file(f"s3://{bucket}/a")
    client.put_object(Bucket=bucket, Key="a", Body=b"xy")
    assert before.version != files.find_file(f"s3://{bucket}/a").version


@pytest.mark.parametrize("how", ["busy", "hang up", "stop in the middle"])
@pytest.mark.parametrize("kind", ["folder", "hub_parquet", "webdataset"])
def test_a_store_that_stumbles_is_asked_again(tmp_path, client, proxy, kind, how):
    path = WRITERS[kind](tmp_path)
    upload(client, tmp_path)
    expected = rows_of({"kind": kind, "path": f"{tmp_path}/{path}", "name": "mine"})
    proxy.how, proxy.failures = how, 3  # more than Arrow itself tries

    rows = rows_of({"kind": kind, "path": f"s3://speech/{path}", "name": "mine"})

    assert proxy.failures < 0
    assert [(row.row_id, row.encoded) for row in rows] == [(row.row_id, row.encoded) for row in expected]


@pytest.mark.parametrize("how", ["busy", "hang up", "stop in the middle"])
def test_half_an_answer_is_never_taken_for_the_whole(client, proxy, how):
    content = tone(5.0)
    client.put_object(Bucket="speech", Key="long.wav", Body=content)
    proxy.how, proxy.failures = how, 3
    assert files.read_bytes("s3://speech/long.wav") == content
    assert proxy.failures < 0
    with files.open_file("s3://speech/long.wav") as opened:
        proxy.failures = 3
        assert opened.read() == content
    assert proxy.failures < 0


def test_a_store_that_is_away_is_a_clear_error_within_the_deadline(client, proxy, monkeypatch):
    client.put_object(Bucket="speech", Key="a.wav", Body=b"x")
    monkeypatch.setattr(asking, "DEADLINE_S", 3.0)
    proxy.failures = 10**9
    started = time.monotonic()
    with pytest.raises(SourceError, match=r"s3://speech/a\.wav: no answer within 3 s; the last was: .*(503|SLOW_DOWN)"):
        files.read_bytes("s3://speech/a.wav")
    assert time.monotonic() - started < 15


@each_kind
def test_an_outage_while_rows_are_read_is_an_error_and_no_row(tmp_path, client, proxy, monkeypatch, kind):
    path = WRITERS[kind](tmp_path)
    upload(client, tmp_path)
    data = recipe({"kind": kind, "path": f"s3://speech/{path}"}).data
    (chunk,) = plan_chunks(data)
    monkeypatch.setattr(asking, "DEADLINE_S", 0.3)
    proxy.failures, proxy.how = 10**9, "hang up"
    with pytest.raises(SourceError, match="no answer within"):
        list(read_rows(chunk, data))
