"""Where asynchronous work is kept: one table in SQLite or PostgreSQL, shared by all ingress processes.

A process *claims* a job by a lease that it renews while it works; a lease that ran out means that the process died, and
the job is claimed again. So a job may be begun twice, and its result is written once: only by who holds the lease.

Every operation is one statement, hence atomic, and every comparison of times uses the database's clock: machines need
not agree on theirs. Times are seconds since 1970.
"""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine, Row
from sqlalchemy.exc import IntegrityError

ACTIVE = ("queued", "in_progress")
ENDED = ("completed", "failed", "cancelled", "expired")

# A job whose process died so often has probably killed it.
MAX_ATTEMPTS = 3

# Any number, as long as nobody else in the database uses it.
_TABLE_LOCK = 0x6A6F6273

_metadata = sa.MetaData()
_jobs = sa.Table(
    "transcription_jobs",
    _metadata,
    sa.Column("id", sa.String(40), primary_key=True),
    sa.Column("owner", sa.String(80), nullable=False),
    sa.Column("idempotency_key", sa.String(255)),
    sa.Column("file_name", sa.Text, nullable=False),
    sa.Column("num_bytes", sa.BigInteger, nullable=False),
    sa.Column("fields", sa.Text, nullable=False),  # JSON
    sa.Column("status", sa.String(16), nullable=False),
    sa.Column("created_at", sa.Double, nullable=False),
    sa.Column("started_at", sa.Double),
    sa.Column("ended_at", sa.Double),
    sa.Column("expires_at", sa.Double, nullable=False),
    sa.Column("processed_s", sa.Double, nullable=False, default=0.0),
    sa.Column("attempts", sa.Integer, nullable=False, default=0),
    sa.Column("not_before", sa.Double, nullable=False, default=0.0),
    sa.Column("lease_holder", sa.String(80)),
    sa.Column("lease_until", sa.Double),
    sa.Column("error", sa.Text),  # JSON
    sa.Column("result", sa.Text),  # JSON
    sa.Column("webhook_url", sa.Text),
    sa.Column("webhook_secret", sa.Text),
    sa.Column("webhook_state", sa.String(16)),
    sa.Column("webhook_attempts", sa.Integer, nullable=False, default=0),
    sa.Column("webhook_at", sa.Double),
    sa.UniqueConstraint("owner", "idempotency_key"),
    sa.Index("transcription_jobs_by_status", "status", "created_at"),
    sa.Index("transcription_jobs_by_owner", "owner", "created_at"),
)

# All but what is large and what is secret.
_shown = [column for column in _jobs.columns if column.name not in ("result", "webhook_secret")]


@dataclass(frozen=True, slots=True)
class Job:
    """A row, without its result."""

    id: str
    owner: str
    idempotency_key: str | None
    file_name: str
    num_bytes: int
    fields: str
    status: str
    created_at: float
    started_at: float | None
    ended_at: float | None
    expires_at: float
    processed_s: float
    attempts: int
    not_before: float
    lease_holder: str | None
    lease_until: float | None
    error: str | None
    webhook_url: str | None
    webhook_state: str | None
    webhook_attempts: int
    webhook_at: float | None


@dataclass(frozen=True, slots=True)
class Delivery:
    """A webhook that is due."""

    job: Job
    secret: str


def new_id() -> str:
    """An id that cannot be guessed."""
    return f"job_{secrets.token_hex(16)}"


class JobStore:
    """Every method may take as long as the database does, so event loops call them in threads.

    All raise `sqlalchemy.exc.OperationalError` while the database does not answer.
    """

    def __init__(self, url: str) -> None:
        self._engine = _engine(url)
        is_sqlite = self._engine.dialect.name == "sqlite"
        epoch = "(julianday('now') - 2440587.5) * 86400.0" if is_sqlite else "extract(epoch from clock_timestamp())"
        self._now: sa.ColumnElement[float] = sa.literal_column(epoch, sa.Double)
        self._is_prepared = False

    def close(self) -> None:
        """Close the connections."""
        self._engine.dispose()

    def submit(self, job_id: str, *, window_s: float, **values: Any) -> Job:
        """Add a job. With the `idempotency_key` of an earlier one of the same owner, that one is returned instead."""
        row = {"id": job_id, "status": "queued", "created_at": self._now, "expires_at": self._now + window_s, **values}
        try:
            return self._one(sa.insert(_jobs).values(row).returning(*_shown))
        except IntegrityError:
            return self._one(sa.select(*_shown).where(_submitted_as(values["owner"], values["idempotency_key"])))

    def knows(self, owner: str, idempotency_key: str) -> bool:
        """Whether the owner has a job that was submitted with this key."""
        return self._first(sa.select(*_shown).where(_submitted_as(owner, idempotency_key))) is not None

    def count_active(self, owner: str | None = None) -> int:
        """Jobs that wait or run: all, or those of one owner."""
        where: sa.ColumnElement[bool] = _jobs.c.status.in_(ACTIVE)
        if owner is not None:
            where &= _jobs.c.owner == owner
        with self._connect() as connection:
            return connection.scalar(sa.select(sa.func.count()).select_from(_jobs).where(where)) or 0

    def get(self, job_id: str, owner: str) -> Job | None:
        """The job, if it is the owner's."""
        return self._first(sa.select(*_shown).where(_mine(job_id, owner)))

    def result(self, job_id: str, owner: str) -> str | None:
        """The transcript of a completed job, as JSON."""
        with self._connect() as connection:
            found: str | None = connection.scalar(sa.select(_jobs.c.result).where(_mine(job_id, owner)))
            return found

    def list_jobs(self, owner: str, *, limit: int, after: str | None = None, status: str | None = None) -> list[Job]:
        """The owner's jobs, newest first; `after`: those older than this one."""
        query = sa.select(*_shown).where(_jobs.c.owner == owner)
        if status is not None:
            query = query.where(_jobs.c.status == status)
        if after is not None:
            last = sa.select(_jobs.c.created_at, _jobs.c.id).where(_mine(after, owner)).subquery()
            query = query.where(sa.tuple_(_jobs.c.created_at, _jobs.c.id) < sa.select(last).scalar_subquery())
        newest_first = query.order_by(_jobs.c.created_at.desc(), _jobs.c.id.desc()).limit(limit)
        with self._connect() as connection:
            return [_job(row) for row in connection.execute(newest_first)]

    def cancel(self, job_id: str, owner: str) -> Job | None:
        """The job, cancelled if it had not ended; who works on it learns it from `renew`."""
        return self._end(_mine(job_id, owner), status="cancelled") or self.get(job_id, owner)

    def delete(self, job_id: str, owner: str) -> bool:
        """Forget a job that has ended; whether there was one."""
        return self._execute(sa.delete(_jobs).where(_mine(job_id, owner) & _jobs.c.status.in_(ENDED))) > 0

    def claim(self, holder: str, *, lease_s: float) -> Job | None:
        """The next job to do, leased: one that waits, or one whose holder was not heard of for too long.

        Callers take turns: the one with the fewest jobs under way comes first, then the oldest job.
        """
        running = _jobs.alias()
        num_running = (
            sa.select(sa.func.count())
            .where((running.c.owner == _jobs.c.owner) & (running.c.status == "in_progress"))
            .correlate(_jobs)
            .scalar_subquery()
        )
        is_free = (_jobs.c.status == "queued") & (_jobs.c.not_before <= self._now)
        is_orphaned = (_jobs.c.status == "in_progress") & (_jobs.c.lease_until < self._now)
        chosen = (
            sa.select(_jobs.c.id)
            .where((is_free | is_orphaned) & (_jobs.c.attempts < MAX_ATTEMPTS) & (_jobs.c.expires_at > self._now))
            .order_by(num_running, _jobs.c.created_at)
            .limit(1)
            .with_for_update(skip_locked=True)  # SQLite has one writer at a time and ignores it
            .scalar_subquery()
        )
        leased = {
            "status": "in_progress",
            "started_at": sa.func.coalesce(_jobs.c.started_at, self._now),
            "attempts": _jobs.c.attempts + 1,
            "lease_holder": holder,
            "lease_until": self._now + lease_s,
        }
        return self._first(sa.update(_jobs).where(_jobs.c.id == chosen).values(leased).returning(*_shown))

    def renew(self, job: Job, *, lease_s: float, processed_s: float) -> bool:
        """Still at it. False: the job is no longer ours: cancelled, expired, or taken by another."""
        renewed = {"lease_until": self._now + lease_s, "processed_s": processed_s}
        return self._execute(sa.update(_jobs).where(_held(job)).values(renewed)) > 0

    def release(self, job: Job, *, delay_s: float, counts: bool) -> None:
        """Back to the others, after `delay_s`. `counts`: as a failed attempt."""
        freed = {
            "status": "queued",
            "lease_holder": None,
            "lease_until": None,
            "not_before": self._now + delay_s,
            "attempts": _jobs.c.attempts - (0 if counts else 1),
        }
        self._execute(sa.update(_jobs).where(_held(job)).values(freed))

    def complete(self, job: Job, result: str, *, processed_s: float) -> Job | None:
        """Write the result. None: the job is no longer ours, and nothing was written."""
        return self._end(_held(job), status="completed", result=result, processed_s=processed_s)

    def fail(self, job: Job, error: str) -> Job | None:
        """End it with the reason. None: the job is no longer ours."""
        return self._end(_held(job), status="failed", error=error)

    def expire(self, *, error: str) -> list[str]:
        """End jobs whose window is over, and those that nobody may try again; returns their ids."""
        is_hopeless = (_jobs.c.attempts >= MAX_ATTEMPTS) & (
            (_jobs.c.status == "queued") | (_jobs.c.lease_until < self._now)
        )
        ended = []
        for where, values in (
            (_jobs.c.expires_at <= self._now, {"status": "expired"}),
            (is_hopeless, {"status": "failed", "error": error}),
        ):
            ended += self._rows(self._ending(where, values).returning(_jobs.c.id))
        return [row.id for row in ended]

    def forget(self, *, kept_s: float) -> int:
        """Delete jobs that ended so long ago; returns how many."""
        is_old = _jobs.c.status.in_(ENDED) & (_jobs.c.ended_at < self._now - kept_s)
        return self._execute(sa.delete(_jobs).where(is_old))

    def active_ids(self) -> set[str]:
        """Jobs whose recordings are still needed."""
        return {row.id for row in self._rows(sa.select(_jobs.c.id).where(_jobs.c.status.in_(ACTIVE)))}

    def claim_webhook(self, *, lease_s: float) -> Delivery | None:
        """A webhook that is due; nobody else tries it for `lease_s`."""
        due = (
            sa.select(_jobs.c.id)
            .where(_jobs.c.webhook_at <= self._now)
            .order_by(_jobs.c.webhook_at)
            .limit(1)
            .with_for_update(skip_locked=True)
            .scalar_subquery()
        )
        taken = {"webhook_at": self._now + lease_s, "webhook_attempts": _jobs.c.webhook_attempts + 1}
        returned = [*_shown, _jobs.c.webhook_secret]
        rows = self._rows(sa.update(_jobs).where(_jobs.c.id == due).values(taken).returning(*returned))
        return Delivery(_job(rows[0]), rows[0].webhook_secret) if rows else None

    def settle_webhook(self, job_id: str, *, state: str, retry_after_s: float | None = None) -> None:
        """Note what became of a delivery, and when to try again."""
        due = None if retry_after_s is None else self._now + retry_after_s
        self._execute(sa.update(_jobs).where(_jobs.c.id == job_id).values({"webhook_state": state, "webhook_at": due}))

    def _end(self, where: sa.ColumnElement[bool], **values: Any) -> Job | None:
        return self._first(self._ending(where, values).returning(*_shown))

    def _ending(self, where: sa.ColumnElement[bool], values: Mapping[str, Any]) -> sa.Update:
        """Whatever ends a job ends its lease too, and makes its webhook due."""
        ended = {
            "ended_at": self._now,
            "lease_holder": None,
            "lease_until": None,
            "webhook_at": sa.case((_jobs.c.webhook_url.is_not(None), self._now)),
            "webhook_state": sa.case((_jobs.c.webhook_url.is_not(None), "pending")),
        }
        return sa.update(_jobs).where(where & _jobs.c.status.in_(ACTIVE)).values({**ended, **values})

    def _connect(self) -> Connection:
        """A connection to a database that has the table. Made at the first use: an endpoint starts without it too."""
        if not self._is_prepared:
            self._prepare()
            self._is_prepared = True
        return self._engine.connect()

    def _prepare(self) -> None:
        with self._engine.execution_options(isolation_level="SERIALIZABLE").begin() as connection:
            if connection.dialect.name == "postgresql":  # where IF NOT EXISTS alone fails when processes start together
                connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_TABLE_LOCK)))
            connection.execute(sa.schema.CreateTable(_jobs, if_not_exists=True))
            for index in sorted(_jobs.indexes, key=lambda index: str(index.name)):
                connection.execute(sa.schema.CreateIndex(index, if_not_exists=True))

    def _execute(self, statement: sa.Update | sa.Delete) -> int:
        with self._connect() as connection:
            return connection.execute(statement).rowcount

    def _rows(self, statement: Any) -> list[Row[Any]]:
        with self._connect() as connection:
            return list(connection.execute(statement))

    def _first(self, statement: Any) -> Job | None:
        rows = self._rows(statement)
        return _job(rows[0]) if rows else None

    def _one(self, statement: Any) -> Job:
        job = self._first(statement)
        assert job is not None, "what was inserted comes back"
        return job


# A server that does not answer is to be an error while the request that asks still has time to say so. In seconds and
# milliseconds; what the URL itself says comes first.
_POSTGRES_PATIENCE = {"connect_timeout": "10", "tcp_user_timeout": "15000"}


def _engine(url: str) -> Engine:
    address = sa.make_url(url)
    if address.get_backend_name() == "postgresql":
        address = address.update_query_dict(_POSTGRES_PATIENCE | dict(address.query))
    engine = sa.create_engine(address, isolation_level="AUTOCOMMIT", pool_pre_ping=True)
    if engine.dialect.name == "sqlite":

        @sa.event.listens_for(engine, "connect")
        def configure(connection: Any, _: Any) -> None:
            # Readers do not wait for the writer, writers wait for each other, and what was answered is on the disk.
            for pragma in ("journal_mode = WAL", "synchronous = FULL", "busy_timeout = 10000"):
                connection.execute(f"PRAGMA {pragma}")

    return engine


def _mine(job_id: str, owner: str) -> sa.ColumnElement[bool]:
    return (_jobs.c.id == job_id) & (_jobs.c.owner == owner)


def _submitted_as(owner: str, idempotency_key: str) -> sa.ColumnElement[bool]:
    return (_jobs.c.owner == owner) & (_jobs.c.idempotency_key == idempotency_key)


def _held(job: Job) -> sa.ColumnElement[bool]:
    """Still leased to who claimed it, in that attempt."""
    return (
        (_jobs.c.id == job.id)
        & (_jobs.c.status == "in_progress")
        & (_jobs.c.lease_holder == job.lease_holder)
        & (_jobs.c.attempts == job.attempts)
    )


def _job(row: Row[Any]) -> Job:
    shown = row._mapping
    return Job(**{column.name: shown[column.name] for column in _shown})
