"""The Python helpers for enqueuing in a transaction of one's own."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import psycopg
import pytest
import sqlalchemy
from psycopg.rows import dict_row
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session

from tests.postgres import Database
from tests.servers import ServerProcess
from tests.sql import Inspector
from tests.toolkit import Api
from workerqueue import (
    EnqueueOutcome,
    InvalidRequestError,
    JobKeyMode,
    KeyConflictError,
    Retention,
    RetryPolicy,
    Unique,
    transactional,
)
from workerqueue.tasks.v1 import tasks_pb2


@pytest.fixture
def dsn(server: ServerProcess, server_database: Database) -> str:
    """The database, which has the functions once the server runs."""
    return server_database.dsn


@pytest.fixture
def alchemy_url(dsn: str) -> str:
    """The same for SQLAlchemy."""
    info = psycopg.conninfo.conninfo_to_dict(dsn)
    return (
        f"postgresql+psycopg://{info['user']}@/{info['dbname']}"
        f"?host={info['host']}&port={info['port']}"
    )


@pytest.fixture
def connection(dsn: str) -> Iterator[psycopg.Connection]:
    """A connection with a transaction of its own."""
    with psycopg.connect(dsn) as connection:
        yield connection


def run(name: str) -> tasks_pb2.RunFinished:
    return tasks_pb2.RunFinished(id=name)


async def test_psycopg(api: Api, connection: psycopg.Connection, queue: str) -> None:
    stored = transactional.enqueue(connection, run("a"), queue=queue)
    assert stored.outcome is EnqueueOutcome.CREATED
    assert await api.take(queue) == []
    connection.commit()
    transactional.enqueue(connection.cursor(row_factory=dict_row), run("b"), queue=queue)
    connection.rollback()
    (lease,) = await api.take(queue)
    assert lease.task_id == stored.task_id


async def test_psycopg_async(api: Api, dsn: str, queue: str) -> None:
    async with await psycopg.AsyncConnection.connect(dsn) as connection:
        stored = await transactional.enqueue_async(
            connection, "runFinished", {"id": "a"}, queue=queue
        )
        assert await api.take(queue) == []
    (lease,) = await api.take(queue)
    assert lease.task_id == stored.task_id


async def test_sqlalchemy(api: Api, alchemy_url: str, queue: str) -> None:
    engine = sqlalchemy.create_engine(alchemy_url)
    try:
        with Session(engine) as session:
            first = transactional.enqueue(session, run("a"), queue=queue)
            assert await api.take(queue) == []
            session.commit()
            transactional.enqueue(session, run("b"), queue=queue)
            session.rollback()
        with engine.begin() as connection:
            second = transactional.enqueue(connection, run("c"), queue=queue)
    finally:
        engine.dispose()
    leases = await api.take(queue)
    assert [lease.task_id for lease in leases] == [first.task_id, second.task_id]


async def test_sqlalchemy_async(api: Api, alchemy_url: str, queue: str) -> None:
    engine = create_async_engine(alchemy_url)
    try:
        async with AsyncSession(engine) as session, session.begin():
            first = await transactional.enqueue_async(session, run("a"), queue=queue)
        async with engine.begin() as connection:
            second = await transactional.enqueue_async(connection, run("b"), queue=queue)
    finally:
        await engine.dispose()
    leases = await api.take(queue)
    assert [lease.task_id for lease in leases] == [first.task_id, second.task_id]


async def test_a_batch(api: Api, connection: psycopg.Connection, queue: str) -> None:
    stored = transactional.enqueue_batch(
        connection,
        [
            transactional.Item(run("a"), queue=queue),
            transactional.Item("runFinished", {"id": "b"}, queue=queue, job_key=queue),
            transactional.Item(run("c"), queue=queue, job_key=queue),
        ],
    )
    connection.commit()
    outcomes = [item.outcome for item in stored]
    assert outcomes == [EnqueueOutcome.CREATED, EnqueueOutcome.CREATED, EnqueueOutcome.REPLACED]
    assert stored[2].task_id == stored[1].task_id
    assert len(await api.take(queue)) == 2


async def test_every_option_arrives(
    connection: psycopg.Connection, sql: Inspector, queue: str
) -> None:
    task_id = str(uuid.uuid4())
    run_at = datetime.now(UTC) + timedelta(hours=1)
    transactional.enqueue(
        connection,
        run("a"),
        task_id=task_id,
        queue=queue,
        priority=3,
        max_attempts=4,
        timeout=timedelta(minutes=2),
        lease_duration=5.5,
        run_at=run_at,
        expire_at=run_at + timedelta(hours=1),
        concurrency_key="k",
        concurrency_limit=6,
        job_key="j-" + queue,
        job_key_mode=JobKeyMode.PRESERVE_RUN_AT,
        retry=RetryPolicy(initial_backoff=1.5, multiplier=2.5, max_backoff=60, jitter=0.2),
        retention=Retention(succeeded=0, dead=timedelta(days=2)),
        tags=["x", "y"],
        metadata={"a": "b"},
    )
    connection.commit()
    (row,) = await sql.rows(
        """
        select t.priority, max_attempts, timeout_ms, lease_duration_ms, run_at, expire_at,
               concurrency_key, concurrency_limit, job_key, retry_policy, retention, tags,
               metadata, l.queue
          from workerqueue.tasks t join workerqueue.lanes l using (lane_id) where id = %s
        """,
        task_id,
    )
    assert row == {
        "priority": 3,
        "max_attempts": 4,
        "timeout_ms": 120_000,
        "lease_duration_ms": 5_500,
        "run_at": run_at,
        "expire_at": run_at + timedelta(hours=1),
        "concurrency_key": "k",
        "concurrency_limit": 6,
        "job_key": "j-" + queue,
        "retry_policy": [1500.0, 2.5, 60_000.0, 0.2],
        "retention": [0, None, None, 172_800],
        "tags": ["x", "y"],
        "metadata": {"a": "b"},
        "queue": queue,
    }


def test_refusals_have_the_clients_classes(connection: psycopg.Connection, queue: str) -> None:
    with pytest.raises(InvalidRequestError, match="unknown task kind 'nothing'"):
        transactional.enqueue(connection, "nothing")
    connection.rollback()
    with pytest.raises(InvalidRequestError, match="priority: must be -1000 to 1000"):
        transactional.enqueue(connection, run("a"), priority=5000)
    connection.rollback()
    unique = Unique(by_args=True, by_queue=True, finished=["dead"], fail=True)
    first = transactional.enqueue(connection, run("a"), queue=queue, unique=unique)
    with pytest.raises(KeyConflictError) as caught:
        transactional.enqueue(connection, run("a"), queue=queue, unique=unique)
    assert caught.value.task_id == first.task_id
    connection.rollback()


def test_other_errors_stay_the_drivers(connection: psycopg.Connection) -> None:
    with pytest.raises(psycopg.errors.DivisionByZero):
        connection.execute("select 1 / 0")
    with pytest.raises(psycopg.errors.InFailedSqlTransaction):
        transactional.enqueue(connection, run("a"))
    connection.rollback()


def test_what_cannot_be_sent_is_refused_before(connection: psycopg.Connection) -> None:
    with pytest.raises(TypeError, match="unknown enqueue option: prority"):
        transactional.enqueue(connection, run("a"), prority=1)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="not to a message"):
        transactional.enqueue(connection, run("a"), {"id": "b"})
    with pytest.raises(TypeError, match="kind's message or name"):
        transactional.enqueue(connection, {"id": "b"})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no time zone"):
        transactional.enqueue(connection, run("a"), run_at=datetime(2030, 1, 1))  # noqa: DTZ001
