import os
import pickle

import fsspec
import pytest

from caspi.corpus.sources import asking, files, stores
from caspi.errors import SourceError


def names(found):
    return [os.path.basename(file.path) for file in found]


@pytest.fixture
def impatient(monkeypatch):
    """Pauses of milliseconds, and a deadline of half a second."""
    monkeypatch.setattr(asking, "_FIRST_PAUSE_S", 0.001)
    monkeypatch.setattr(asking, "DEADLINE_S", 0.5)


class Stumbling(fsspec.get_filesystem_class("memory")):
    """A store that fails `failures` times in all, with `error`."""

    protocol = "stumbling"
    cachable = False
    failures = 0
    error: Exception = OSError("When reading: AWS Error SLOW_DOWN during GetObject")
    requests = 0
    find = fsspec.AbstractFileSystem.find  # as S3 by Arrow has it; the store in memory has a better one

    @classmethod
    def _strip_protocol(cls, path):
        return "/" + path.removeprefix("stumbling://").strip("/")

    def _stumble(self):
        cls = type(self)
        cls.requests += 1
        if cls.failures > 0:
            cls.failures -= 1
            raise cls.error

    def ls(self, *args, **kwargs):
        self._stumble()
        return super().ls(*args, **kwargs)

    def info(self, *args, **kwargs):
        self._stumble()
        return super().info(*args, **kwargs)

    def _open(self, *args, **kwargs):
        self._stumble()
        return super()._open(*args, **kwargs)


@pytest.fixture
def store(monkeypatch, impatient):
    """`stumbling://bucket/deep/{a,b}.txt`."""
    fsspec.register_implementation("stumbling", Stumbling, clobber=True)
    memory = fsspec.filesystem("memory")
    memory.store.clear()
    for name in ("a", "b"):
        memory.pipe_file(f"/bucket/deep/{name}.txt", name.encode() * 1000)
    for name in ("failures", "requests", "error"):
        monkeypatch.setattr(Stumbling, name, getattr(Stumbling, name))
    return Stumbling


# --- what is there ---


@pytest.mark.parametrize(
    ("path", "expanded"),
    [
        ("a-{000..002}.tar", ["a-000.tar", "a-001.tar", "a-002.tar"]),
        ("a-{9..11}.tar", ["a-9.tar", "a-10.tar", "a-11.tar"]),
        ("{train,dev}/{0..1}.tar", ["train/0.tar", "train/1.tar", "dev/0.tar", "dev/1.tar"]),
        ("plain.tar", ["plain.tar"]),
        ("{a}.tar", ["{a}.tar"]),
        ("{b..a}.tar", ["{b..a}.tar"]),
    ],
)
def test_braces_stand_for_their_alternatives(path, expanded):
    assert files.expand_braces(path) == expanded


def test_files_are_found_by_name_folder_and_pattern(tmp_path):
    for name in ("x.tar", "y.tar", "deep/z.tar", "deep/down/w.tar", "notes.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)

    def find(pattern):
        return names(files.find_files(f"{tmp_path}/{pattern}".rstrip("/"), ".tar"))

    assert find("x.tar") == ["x.tar"]
    assert find("") == ["w.tar", "z.tar", "x.tar", "y.tar"]
    assert find("*.tar") == ["x.tar", "y.tar"]
    assert find("*/*.tar") == ["z.tar"]
    assert find("**/*.tar") == ["w.tar", "z.tar", "x.tar", "y.tar"]
    assert find("deep/**") == ["w.tar", "z.tar"]
    assert find("[xz].tar") == ["x.tar"]


def test_a_file_may_be_called_like_a_pattern(tmp_path):
    (tmp_path / "interview [2].jsonl").write_text("x")
    assert names(files.find_files(f"{tmp_path}/interview [2].jsonl", ".jsonl")) == ["interview [2].jsonl"]


def test_a_path_through_a_file_is_no_path(tmp_path):
    (tmp_path / "a").write_text("x")
    with pytest.raises(SourceError, match="no such file"):
        files.find_files(f"{tmp_path}/a/b.jsonl", ".jsonl")


def test_a_folder_that_cannot_be_listed_is_no_empty_folder(store):
    # fsspec's own `find` says that there is nothing.
    store.failures, store.error = 1000, PermissionError("denied")
    assert fsspec.filesystem("stumbling").find("/bucket") == []
    with pytest.raises(SourceError, match="may not be read: denied; check the credentials"):
        files.find_files("stumbling://bucket/*/*.txt", ".txt")


@pytest.mark.parametrize(
    ("url", "protocol", "inner"),
    [
        ("hf://datasets/ivrit-ai/crowd-transcribe-v5/data", "hf", "datasets/ivrit-ai/crowd-transcribe-v5/data"),
        ("s3://bucket/a b/c#d?e.wav", "s3", "bucket/a b/c#d?e.wav"),
        ("gs://bucket/a.wav", "gcs", "bucket/a.wav"),
        ("file:///tmp/a.wav", "file", "/tmp/a.wav"),
        ("/tmp/a.wav", "file", "/tmp/a.wav"),
    ],
)
def test_a_url_names_its_store_and_the_place_in_it(monkeypatch, url, protocol, inner):
    # Nothing is asked of these stores: an endpoint only keeps S3 from looking up where the bucket is.
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    filesystem, path = stores.open_filesystem(url)
    assert path == inner
    assert protocol in (filesystem.protocol if isinstance(filesystem.protocol, tuple) else (filesystem.protocol,))


# --- asking again ---


@pytest.mark.parametrize(
    "error",
    [
        OSError("When reading: AWS Error SLOW_DOWN during GetObject operation (HTTP status 503)"),
        OSError("AWS Error NETWORK_CONNECTION during HeadObject operation: curlCode: 56"),
        OSError("google::cloud::Status(UNAVAILABLE: try later)"),
        ConnectionResetError("reset by peer"),
        TimeoutError("too long"),
        OSError(5, "Input/output error"),
        OSError(116, "Stale file handle"),
    ],
)
def test_what_passes_is_asked_again(store, error):
    store.failures, store.error = 3, error
    assert names(files.find_files("stumbling://bucket/**/*.txt", ".txt")) == ["a.txt", "b.txt"]
    store.failures = 3
    assert files.read_bytes("stumbling://bucket/deep/a.txt", 2, 5) == b"aaa"
    assert store.failures == 0


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (PermissionError("denied"), "may not be read"),
        (OSError("AWS Error ACCESS_DENIED during GetObject operation (HTTP status 403)"), "may not be read"),
        (OSError("AWS Error INVALID_ACCESS_KEY_ID during HeadObject operation"), "may not be read"),
    ],
)
def test_a_refusal_is_said_at_once(store, error, message):
    store.failures, store.error = 1000, error
    with pytest.raises(SourceError, match=message):
        files.read_bytes("stumbling://bucket/deep/a.txt")
    assert store.requests == 1


def test_what_is_missing_is_not_asked_for_again(store):
    with pytest.raises(FileNotFoundError):
        files.read_bytes("stumbling://bucket/deep/c.txt")
    assert store.requests == 1
    assert files.read_audio("stumbling://bucket/deep/c.txt")[1][0] == "missing_audio"


def test_an_error_of_another_sort_stays_what_it_is(store):
    store.failures, store.error = 1, ZeroDivisionError("ours")
    with pytest.raises(ZeroDivisionError):
        files.read_bytes("stumbling://bucket/deep/a.txt")


def test_a_store_that_is_away_is_an_error_within_the_deadline(store):
    store.failures = 10**9
    with pytest.raises(SourceError, match=r"a\.txt: no answer within 0\.5 s; the last was: .*SLOW_DOWN"):
        files.read_bytes("stumbling://bucket/deep/a.txt")
    assert store.requests > 3


def test_a_file_goes_on_where_it_was(store):
    with files.open_file("stumbling://bucket/deep/b.txt", buffer_bytes=16) as file:
        assert file.read(10) == b"b" * 10
        fsspec.filesystem("memory").pipe_file("/bucket/deep/b.txt", b"b" * 16 + b"c" * 984)
        store.failures = 2
        file.raw._close()  # as when the connection was lost
        assert file.read(10) == b"b" * 6 + b"c" * 4
        assert file.seek(-1, 2) == 999 and file.read() == b"c"
        assert file.read() == b""


def test_errors_of_stores_travel_between_processes(store):
    store.failures = 10**9
    with pytest.raises(SourceError) as refused:
        files.read_bytes("stumbling://bucket/deep/a.txt")
    assert str(pickle.loads(pickle.dumps(refused.value))) == str(refused.value)
