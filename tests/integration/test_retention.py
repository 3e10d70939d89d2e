"""Partitions come and go under load, and never at the expense of an ack."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from time import monotonic
from typing import Any

import pytest
from psycopg import AsyncConnection
from psycopg.sql import SQL, Identifier

from tests.postgres import Database
from tests.servers import ServerProcess
from tests.sql import Inspector
from tests.toolkit import Api, connected, eventually, request
from workerqueue_server.queue.retention import Retention
from workerqueue_server.store.partitions import PartitionStore

# A stall is told from a slow machine by this. The lock on history that a careless drop or create
# would wait for is held in these tests for as long as they run, and then for ever.
STALL_SECONDS = 10.0


class Flow:
    """Tasks that are enqueued, leased and acked all the while."""

    def __init__(self, api: Api, queue: str) -> None:
        self._api = api
        self._queue = queue
        self.acked = 0
        self.longest_gap = 0.0

    async def run(self) -> None:
        last = monotonic()
        async with self._api.worker(self._queue) as worker:
            while True:
                await self._api.ids([request(queue=self._queue) for _ in range(20)])
                tasks = await worker.tasks(20)
                await worker.acked(*(task.lease_token for task in tasks))
                self.acked += len(tasks)
                self.longest_gap = max(self.longest_gap, monotonic() - last)
                last = monotonic()

    async def goes_on(self) -> None:
        """Waits until more tasks have come through."""
        reached = self.acked + 100
        await eventually(lambda: self.acked >= reached, "tasks flow")


@asynccontextmanager
async def flow(api: Api, queue: str) -> AsyncIterator[Flow]:
    """A flow of tasks that must not end, fail or stall in the block."""
    flowing = Flow(api, queue)
    task = asyncio.create_task(flowing.run())
    try:
        await flowing.goes_on()
        yield flowing
        await flowing.goes_on()
        assert not task.done(), task.exception()
        assert flowing.longest_gap < STALL_SECONDS
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.fixture
async def partitions(server_database: Database) -> AsyncIterator[PartitionStore]:
    store = PartitionStore(server_database.dsn)
    yield store
    await store.close()


@asynccontextmanager
async def reader(database: Database, table: str) -> AsyncIterator[AsyncConnection[Any]]:
    """An open transaction that has read the table, like a backup's."""
    async with await AsyncConnection.connect(database.dsn) as connection:
        await connection.execute(
            SQL("select count(*) from workerqueue.{}").format(Identifier(table))
        )
        yield connection
        await connection.rollback()


async def make_expired(sql: Inspector, name: str, day: str, next_day: str) -> None:
    """A partition of history whose day is over, with tasks in it."""
    await sql.connection.execute(
        SQL("create table workerqueue.{} (like workerqueue.history)").format(Identifier(name))
    )
    await sql.connection.execute(
        SQL(
            "alter table workerqueue.history attach partition workerqueue.{}"
            " for values from ({}) to ({})"
        ).format(Identifier(name), f"{day} 00:00:00+00", f"{next_day} 00:00:00+00")
    )
    await sql.rows(
        """
        insert into workerqueue.history (
          id, created_at, run_at, finished_at, retain_until, lane_id, timeout_ms,
          lease_duration_ms, state, attempt, max_attempts, concurrency_limit)
        select gen_random_uuid(), %s, %s, %s, %s, (select min(lane_id) from workerqueue.lanes),
               60000, 30000, 'succeeded', 1, 1, 1
          from generate_series(1, 1000)
        """,
        *[f"{day} 12:00:00+00"] * 4,
    )


async def is_there(sql: Inspector, name: str) -> bool:
    there: bool = await sql.value("select to_regclass(%s) is not null", f"workerqueue.{name}")
    return there


async def test_an_expired_partition_goes_while_tasks_flow(
    api: Api, queue: str, sql: Inspector, server_database: Database
) -> None:
    await make_expired(sql, "history_20200201", "2020-02-01", "2020-02-02")
    async with flow(api, queue) as flowing:
        # A server does this when it starts, and then from time to time.
        another = ServerProcess(server_database.dsn, name="another server")
        # Its start waits without an event loop, and the flow needs this one.
        await asyncio.to_thread(another.start)
        with another:

            async def gone() -> bool:
                return not await is_there(sql, "history_20200201")

            await eventually(gone, "the partition is dropped")
            await flowing.goes_on()
    assert (
        await sql.value(
            "select count(*)::integer from workerqueue.history where retain_until < '2021-01-01'"
        )
        == 0
    )


async def test_a_long_reader_delays_the_drop_and_not_the_tasks(
    api: Api, queue: str, sql: Inspector, server_database: Database, partitions: PartitionStore
) -> None:
    await make_expired(sql, "history_20200301", "2020-03-01", "2020-03-02")
    retention = Retention(partitions)
    async with flow(api, queue) as flowing:
        async with reader(server_database, "history") as connection:
            # Young or old, it is respected; nothing waits for it for longer than a moment.
            young = await partitions.drop_expired(31)
            assert young.dropped is None
            assert young.held_by
            await eventually(
                lambda: sql.value(
                    "select clock_timestamp() - xact_start > interval '1 second'"
                    "  from pg_stat_activity where pid = %s",
                    connection.info.backend_pid,
                ),
                "the reader is old",
            )
            for _ in range(10):
                pause = await retention.duty()
                assert pause < 60
                await flowing.goes_on()
            old = await partitions.drop_expired(31)
            assert str(connection.info.backend_pid) in (old.held_by or "")
            assert await is_there(sql, "history_20200301")

        async def done() -> bool:
            # The drop waits for a moment only: an ack of a busy machine may still be in its way.
            return await retention.duty() > 60

        await eventually(done, "the partition is dropped")
        assert not await is_there(sql, "history_20200301")


async def test_partitions_are_made_beside_a_long_reader(
    api: Api, queue: str, sql: Inspector, server_database: Database, partitions: PartitionStore
) -> None:
    before = await sql.value(
        "select count(*)::integer from pg_inherits"
        " where inhparent = 'workerqueue.history'::regclass"
    )
    async with flow(api, queue), reader(server_database, "history"):
        assert await partitions.create(40) == 40 - 32
    after = await sql.value(
        "select count(*)::integer from pg_inherits"
        " where inhparent = 'workerqueue.history'::regclass"
    )
    assert after == before + 8
    # They have the indexes and triggers of the others.
    assert (
        await sql.value(
            """
            select count(distinct made)::integer
              from (select (select count(*) from pg_index x where x.indrelid = i.inhrelid),
                           (select count(*) from pg_trigger g where g.tgrelid = i.inhrelid)
                      from pg_inherits i
                     where i.inhparent = 'workerqueue.history'::regclass) made
            """
        )
        == 1
    )


async def test_a_database_that_slept_for_weeks_takes_attempts_at_once(
    database: Database,
) -> None:
    with ServerProcess(database.dsn, name="first server"):
        pass
    async with await AsyncConnection.connect(database.dsn, autocommit=True) as connection:
        inspector = Inspector(connection)
        for row in await inspector.rows(
            "select inhrelid::regclass::text as name from pg_inherits"
            " where inhparent in ('workerqueue.history'::regclass,"
            "                     'workerqueue.attempts'::regclass)"
        ):
            await connection.execute(SQL("drop table {}").format(SQL(row["name"])))
        with ServerProcess(database.dsn, name="second server") as server:
            async with connected(server.address) as api:
                task_id = (await api.enqueue(queue="q", max_attempts=2)).task_id
                (leased,) = await api.take("q")
                await api.fail(leased.lease_token)
                assert len(await inspector.attempts(task_id)) == 1
                other = (await api.enqueue(queue="r")).task_id
                (leased,) = await api.take("r")
                await api.ack(leased.lease_token)
                assert await inspector.state(other) == "succeeded"


async def test_the_statistics_forget_what_was_dropped(
    sql: Inspector, partitions: PartitionStore
) -> None:
    await make_expired(sql, "history_20200401", "2020-04-01", "2020-04-02")
    await sql.fold_flows()
    days = (
        "select coalesce(sum(n), 0)::integer from workerqueue.task_depths"
        " where retain_day = '2020-04-01'"
    )
    assert await sql.value(days) == 1000
    assert (await partitions.drop_expired(31)).dropped == "history_20200401"
    await partitions.forget_dropped_days()
    assert await sql.value(days) == 0
