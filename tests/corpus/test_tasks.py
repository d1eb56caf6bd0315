import functools
import os
import signal
import time

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from caspi.corpus import tasks
from caspi.errors import CaspiError, SourceError, StorageError


@given(st.integers(0, 3000), st.integers(1, 200))
def test_every_item_is_dealt_once_and_the_last_tasks_are_small(num_items, num_cpus):
    groups = list(tasks.share(range(num_items), num_cpus))
    assert [item for group in groups for item in group] == list(range(num_items))
    assert all(len(group) <= 16 for group in groups)
    assert sorted(map(len, groups), reverse=True) == list(map(len, groups))
    if num_items:
        assert len(groups[-1]) == 1


def test_a_hundred_million_utterances_do_not_drown_ray_in_tasks():
    assert len(list(tasks.share(range(1_600_000), 64))) < 110_000


run = functools.partial(tasks.run, memory_bytes=2**20)


def answer(item):
    if isinstance(item, BaseException):
        raise item
    time.sleep(0.2)
    yield pa.table({"item": [item]})


@pytest.mark.usefixtures("ray_2_cpus")
def test_tables_come_one_by_one_and_none_is_lost():
    began = time.monotonic()
    seen = [(table["item"][0].as_py(), time.monotonic() - began) for table in run(answer, range(20))]
    assert sorted(item for item, _ in seen) == list(range(20))
    assert seen[0][1] < seen[-1][1] - 0.5  # not all at the end


@pytest.mark.usefixtures("ray_2_cpus")
def test_our_own_errors_arrive_as_they_were_raised():
    with pytest.raises(SourceError, match="no such thing"):
        list(run(answer, [1, SourceError("no such thing")]))


@pytest.mark.usefixtures("ray_2_cpus")
def test_a_full_disk_says_what_to_do():
    with pytest.raises(StorageError, match="give the same command again"):
        list(run(answer, [OSError(28, "No space left on device", "/somewhere")]))


@pytest.mark.usefixtures("ray_2_cpus")
def test_no_work_is_no_tables():
    assert list(run(answer, [])) == []


@pytest.mark.usefixtures("ray_2_cpus")
def test_memory_that_no_machine_has_is_not_waited_for():
    assert len(list(tasks.run(answer, range(3), memory_bytes=2**60))) == 3


@pytest.mark.usefixtures("ray_2_cpus")
def test_few_tasks_wait_at_once():
    class Work(list):
        def __getitem__(self, wanted):
            dealt.extend(super().__getitem__(wanted))
            return super().__getitem__(wanted)

    dealt: list[int] = []
    tables = run(answer, Work(range(24)))
    next(tables)
    assert len(dealt) < 12
    assert len(list(tables)) == 23


def die_once(item, folder):
    mark = folder / str(item)
    if item % 3 == 0 and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    yield pa.table({"item": [item]})


@pytest.mark.usefixtures("ray_2_cpus")
def test_work_whose_worker_dies_is_done_again(tmp_path):
    found = [table["item"][0].as_py() for table in run(die_once, range(8), tmp_path)]
    assert sorted(found) == list(range(8))
    assert len(list(tmp_path.iterdir())) == 3


def die(item):
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.usefixtures("ray_2_cpus")
def test_work_that_kills_every_worker_ends_the_job(monkeypatch):
    monkeypatch.setattr(tasks, "_MAX_RETRIES", 1)
    with pytest.raises(CaspiError, match=r"lost its worker 2 times.*What was done is kept"):
        list(run(die, [1]))


def begin(item, folder):
    (folder / str(item)).touch()
    for _ in range(600 if item else 0):
        time.sleep(0.1)  # an interruption comes between two
    yield pa.table({"item": [item]})


@pytest.mark.usefixtures("ray_2_cpus")
def test_who_stops_asking_stops_the_work(tmp_path):
    tables = run(begin, range(9), tmp_path)
    next(tables)
    tables.close()
    begun = len(list(tmp_path.iterdir()))
    assert begun < 9
    assert len(list(run(answer, [1]))) == 1  # cores are free again
    assert len(list(tmp_path.iterdir())) == begun
