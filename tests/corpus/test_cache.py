"""Shards on this machine: one download whoever asks, within a bound, and nothing that is read is taken away."""

import multiprocessing
import os
import threading
import time
from pathlib import Path

import pytest

from caspi.corpus.cache import ShardCache
from caspi.errors import StorageError

SIZE = 1_000_000


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ShardCache:
    """Room for three shards."""
    monkeypatch.setenv("CASPI_CORPUS_CACHE_GB", "0.0035")
    return ShardCache(tmp_path)


def shard(cache: ShardCache, number: int) -> Path:
    return cache.root / "corpus" / "train" / f"shard-{number:05d}.parquet"


def fetch(part: Path) -> None:
    with part.open("r+b") as file:
        file.write(bytes(SIZE))


def ensure(cache: ShardCache, *numbers: int) -> list[bool]:
    return [cache.ensure(shard(cache, number), SIZE, fetch) for number in numbers]


def here(cache: ShardCache) -> list[int]:
    return sorted(int(path.stem.removeprefix("shard-")) for path in cache.root.glob("*/*/*.parquet"))


def test_what_was_used_least_recently_goes(cache: ShardCache):
    for number in range(3):
        ensure(cache, number)
        os.utime(shard(cache, number), (number, number))
    with cache.held(shard(cache, 0), SIZE, fetch):
        pass  # the oldest is used again
    ensure(cache, 3)
    assert here(cache) == [0, 2, 3]


def test_what_is_held_stays_and_the_bound_gives_way_for_who_cannot_wait(cache: ShardCache, caplog):
    with cache.held(shard(cache, 0), SIZE, fetch), cache.held(shard(cache, 1), SIZE, fetch):
        with cache.held(shard(cache, 2), SIZE, fetch):
            assert ensure(cache, 3) == [False]  # for later: there is no room
            assert here(cache) == [0, 1, 2]
            with cache.held(shard(cache, 4), SIZE, fetch) as path:
                assert path.stat().st_size == SIZE
                assert here(cache) == [0, 1, 2, 4]
            assert "CASPI_CORPUS_CACHE_GB" in caplog.text
        assert ensure(cache, 3) == [True]
    assert {0, 1, 3} <= set(here(cache)) and len(here(cache)) == 3


def test_what_is_open_can_be_read_when_it_has_gone(cache: ShardCache):
    with cache.held(shard(cache, 0), SIZE, fetch) as path:
        file = path.open("rb")
    ensure(cache, 1, 2, 3)
    assert not path.exists()
    with file:
        assert file.read() == bytes(SIZE)


def count_and_fetch(log: Path):
    def fetch_slowly(part: Path) -> None:
        with log.open("a") as file:
            file.write("fetched\n")
        time.sleep(0.2)
        fetch(part)

    return fetch_slowly


def ask(cache: ShardCache, log: Path) -> None:
    with cache.held(shard(cache, 0), SIZE, count_and_fetch(log)) as path:
        assert path.read_bytes() == bytes(SIZE)


def test_threads_and_processes_that_ask_at_once_share_one_download(cache: ShardCache, tmp_path: Path):
    log = tmp_path / "log"
    askers = [threading.Thread(target=ask, args=(cache, log)) for _ in range(3)]
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=ask, args=(cache, log)) for _ in range(3)]
    for each in [*processes, *askers]:
        each.start()
    for each in [*processes, *askers]:
        each.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert log.read_text() == "fetched\n"


def test_a_download_that_fails_leaves_nothing(cache: ShardCache):
    def fail(part: Path) -> None:
        raise RuntimeError("no")

    with pytest.raises(RuntimeError), cache.held(shard(cache, 0), SIZE, fail):
        pass
    assert not list(cache.root.glob("*/*/*.part"))
    assert ensure(cache, 0) == [True]


def test_a_folder_that_cannot_be_written_is_named(cache: ShardCache):
    (cache.root / "corpus").write_text("not a folder")
    with pytest.raises(StorageError, match=r"corpus/train/shard-00000\.parquet: .*move CASPI_HOME"):
        ensure(cache, 0)


def test_what_a_killed_process_left_takes_no_room(cache: ShardCache):
    ensure(cache, 0)
    for number in (1, 2):
        left = shard(cache, number).with_name(f"{shard(cache, number).name}.part")
        left.write_bytes(bytes(SIZE))
    assert ensure(cache, 2, 3) == [True, True]
    assert here(cache) == [0, 2, 3]
    assert not list(cache.root.glob("*/*/*.part"))


def test_a_file_of_another_size_is_fetched_again(cache: ShardCache):
    """A machine that lost its power can leave one."""
    ensure(cache, 0)
    os.truncate(shard(cache, 0), SIZE // 2)
    with cache.held(shard(cache, 0), SIZE, fetch) as path:
        assert path.stat().st_size == SIZE
