"""The table of jobs, in SQLite and in a real PostgreSQL: leases, turns, and what is written once."""

import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.exc import OperationalError

from serve.job_store import MAX_ATTEMPTS, Job, JobStore, new_id
from tests.serve import postgres

LEASE_S = 60.0


def test_a_postgresql_that_says_nothing_is_an_error_in_time() -> None:
    pytest.importorskip("psycopg")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"postgresql+psycopg://anna@127.0.0.1:{silent.getsockname()[1]}/jobs?connect_timeout=2"
        with pytest.raises(OperationalError, match="timeout"):
            JobStore(address).count_active()


@pytest.fixture(scope="module")
def postgres_url() -> Iterator[str]:
    with postgres.server() as url:
        yield url


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/jobs.db"
    found: str = request.getfixturevalue("postgres_url")
    return found


@pytest.fixture
def store(url: str) -> Iterator[JobStore]:
    store = JobStore(url)
    store.forget(kept_s=-1)  # of the test before, in PostgreSQL
    yield store
    for job_id in store.active_ids():
        for owner in ("anna", "ben"):
            store.cancel(job_id, owner)
    store.close()


def submit(store: JobStore, owner: str = "anna", **given: Any) -> Job:
    row = {
        "window_s": 3600.0,
        "owner": owner,
        "idempotency_key": None,
        "file_name": "a.wav",
        "num_bytes": 1,
        "fields": "{}",
        "webhook_url": None,
        "webhook_secret": None,
    }
    return store.submit(new_id(), **{**row, **given})


def claim(store: JobStore, holder: str = "one", lease_s: float = LEASE_S) -> Job:
    job = store.claim(holder, lease_s=lease_s)
    assert job is not None
    return job


def test_a_job_is_claimed_once(store: JobStore) -> None:
    job = submit(store)
    assert claim(store).id == job.id
    assert store.claim("other", lease_s=LEASE_S) is None


def test_many_that_claim_at_once_get_one_job_each(store: JobStore, url: str) -> None:
    ids = {submit(store).id for _ in range(40)}
    others = [JobStore(url) for _ in range(4)]

    def take(number: int) -> str:
        return claim(others[number % 4], f"holder-{number}").id

    with ThreadPoolExecutor(8) as pool:
        taken = list(pool.map(take, range(40)))
    assert sorted(taken) == sorted(ids)
    for other in others:
        other.close()


def test_processes_that_start_together_create_the_table_once(tmp_path: Path, url: str) -> None:
    program = f"from serve.job_store import JobStore; JobStore({url!r}).count_active()"
    children = [subprocess.Popen([sys.executable, "-c", program]) for _ in range(4)]
    assert [child.wait(timeout=120) for child in children] == [0] * 4


def test_who_lost_the_lease_can_write_nothing_any_more(store: JobStore) -> None:
    submit(store)
    late = claim(store, "late", lease_s=0.05)
    time.sleep(0.1)
    quick = claim(store, "quick")
    assert (quick.id, quick.attempts) == (late.id, 2)
    assert not store.renew(late, lease_s=LEASE_S, processed_s=1.0)
    assert store.complete(late, "{}", processed_s=1.0) is None
    store.release(late, delay_s=0.0, counts=False)
    assert store.complete(quick, '{"by": "quick"}', processed_s=1.0) is not None
    assert store.result(quick.id, "anna") == '{"by": "quick"}'
    assert store.complete(quick, '{"by": "quick again"}', processed_s=1.0) is None


def test_a_lease_that_is_renewed_holds(store: JobStore) -> None:
    submit(store)
    job = claim(store, lease_s=0.2)
    assert store.renew(job, lease_s=LEASE_S, processed_s=12.5)
    time.sleep(0.3)
    assert store.claim("other", lease_s=LEASE_S) is None
    found = store.get(job.id, "anna")
    assert found is not None and found.processed_s == 12.5


def test_a_job_that_kills_its_processes_is_given_up(store: JobStore) -> None:
    job = submit(store)
    for _ in range(MAX_ATTEMPTS):
        claim(store, lease_s=0.01)
        time.sleep(0.05)
    assert store.claim("one more", lease_s=LEASE_S) is None
    assert store.expire(error='{"error": {}}') == [job.id]
    found = store.get(job.id, "anna")
    assert found is not None and found.status == "failed"


def test_callers_take_turns(store: JobStore) -> None:
    for _ in range(3):
        submit(store, "anna")
    submit(store, "ben")
    assert [claim(store).owner for _ in range(4)] == ["anna", "ben", "anna", "anna"]


def test_a_released_job_waits_and_a_handover_counts_no_attempt(store: JobStore) -> None:
    submit(store)
    store.release(claim(store), delay_s=0.0, counts=False)
    job = claim(store)
    assert job.attempts == 1
    store.release(job, delay_s=3600.0, counts=True)
    assert store.claim("one", lease_s=LEASE_S) is None


@pytest.mark.parametrize(
    ("end", "status"),
    [
        (lambda store, job: store.complete(job, "{}", processed_s=1.0), "completed"),
        (lambda store, job: store.fail(job, "{}"), "failed"),
        (lambda store, job: store.cancel(job.id, job.owner), "cancelled"),
    ],
    ids=["completed", "failed", "cancelled"],
)
def test_whatever_ends_a_job_makes_its_webhook_due_once(
    store: JobStore, end: Callable[[JobStore, Job], Any], status: str
) -> None:
    submit(store, webhook_url="https://example.org/", webhook_secret="secret")
    assert store.claim_webhook(lease_s=LEASE_S) is None
    end(store, claim(store))
    delivery = store.claim_webhook(lease_s=LEASE_S)
    assert delivery is not None
    assert (delivery.job.status, delivery.secret, delivery.job.webhook_attempts) == (status, "secret", 1)
    assert store.claim_webhook(lease_s=LEASE_S) is None
    store.settle_webhook(delivery.job.id, state="pending", retry_after_s=0.0)
    assert store.claim_webhook(lease_s=LEASE_S) is not None
    store.settle_webhook(delivery.job.id, state="delivered")
    assert store.claim_webhook(lease_s=LEASE_S) is None


def test_a_store_that_is_gone_is_an_error_at_its_first_use_and_not_before() -> None:
    from sqlalchemy.exc import OperationalError

    store = JobStore("sqlite:////nowhere/at/all/jobs.db")
    with pytest.raises(OperationalError):
        store.count_active()
