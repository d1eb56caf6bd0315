import functools
import time

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from caspi.corpus import tasks
from caspi.errors import SourceError, StorageError


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
