"""The yardstick: the same work as plain SQL on a simple table, by one process with a good driver.

No policy, no validation, no fencing, no history and no network between worker and database: what is
left is PostgreSQL's own cost of storing, handing out and finishing a task.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable

import psycopg
from psycopg import AsyncConnection

BATCH = 1_000
CONNECTIONS = 32
PAYLOAD = b"x" * 50

_CREATE = """
  create schema if not exists plain_sql;
  drop table if exists plain_sql.tasks;
  create table plain_sql.tasks (
    id bigint generated always as identity primary key,
    payload bytea not null,
    leased_at timestamptz
  );
"""
_INSERT = "insert into plain_sql.tasks (payload) values (%b)"
_INSERT_BATCH = "insert into plain_sql.tasks (payload) select unnest(%b::bytea[])"
_LEASE_BATCH = """
  with chosen as materialized (
    select id from plain_sql.tasks where leased_at is null order by id
    for update skip locked limit %b
  )
  update plain_sql.tasks set leased_at = now() where id = any (array(select id from chosen))
  returning id, payload
"""
_DELETE_BATCH = "delete from plain_sql.tasks where id = any (%b::bigint[])"


def prepare(dsn: str) -> None:
    """Makes the table, empty."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(_CREATE)


def insert_batches(dsn: str, tasks: int) -> float:
    """Rows a second, inserted in batches by one connection."""
    payloads = [PAYLOAD] * BATCH
    with psycopg.connect(dsn, autocommit=True) as connection:
        started = time.perf_counter()
        for _ in range(tasks // BATCH):
            connection.execute(_INSERT_BATCH, (payloads,))
        return tasks / (time.perf_counter() - started)


def drain_batches(dsn: str, tasks: int) -> float:
    """Rows a second, leased and deleted in batches by one connection. Needs `insert_batches`."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        started = time.perf_counter()
        for _ in range(tasks // BATCH):
            _lease_and_delete(connection)
        return tasks / (time.perf_counter() - started)


def cycle_batches(dsn: str, tasks: int) -> float:
    """Rows a second, inserted, leased and deleted in batches by one connection."""
    payloads = [PAYLOAD] * BATCH
    with psycopg.connect(dsn, autocommit=True) as connection:
        started = time.perf_counter()
        for _ in range(tasks // BATCH):
            connection.execute(_INSERT_BATCH, (payloads,))
            _lease_and_delete(connection)
        return tasks / (time.perf_counter() - started)


def _lease_and_delete(connection: psycopg.Connection) -> None:
    rows = connection.execute(_LEASE_BATCH, (BATCH,), binary=True).fetchall()
    connection.execute(_DELETE_BATCH, ([row[0] for row in rows],))


def insert_singles(dsn: str, tasks: int) -> float:
    """Rows a second, inserted and committed one by one by many connections."""

    async def insert(connections: list[AsyncConnection]) -> float:
        async def insert_some(connection: AsyncConnection) -> None:
            for _ in range(tasks // CONNECTIONS):
                await connection.execute(_INSERT, (PAYLOAD,))

        started = time.perf_counter()
        await asyncio.gather(*(insert_some(connection) for connection in connections))
        return tasks / (time.perf_counter() - started)

    return asyncio.run(_with_connections(dsn, CONNECTIONS, insert))


def notify_latency_ms(dsn: str, samples: int) -> float:
    """Median milliseconds from an insert with NOTIFY to the row in the hands of a listener."""

    async def measure(connections: list[AsyncConnection]) -> float:
        producer, consumer = connections
        await consumer.execute("listen plain_sql")
        notified = consumer.notifies()
        latencies = []
        for _ in range(samples):
            started = time.perf_counter()
            waiting = asyncio.ensure_future(anext(notified))
            async with producer.transaction():
                await producer.execute(_INSERT, (PAYLOAD,))
                await producer.execute("notify plain_sql")
            await waiting
            # A generator of notifications owns its connection until it is closed.
            await notified.aclose()
            rows = await (await consumer.execute(_LEASE_BATCH, (1,), binary=True)).fetchall()
            latencies.append(time.perf_counter() - started)
            await consumer.execute(_DELETE_BATCH, ([row[0] for row in rows],))
            notified = consumer.notifies()
        await notified.aclose()
        return statistics.median(latencies) * 1000

    return asyncio.run(_with_connections(dsn, 2, measure))


async def _with_connections(
    dsn: str, count: int, work: Callable[[list[AsyncConnection]], Awaitable[float]]
) -> float:
    connections = [await AsyncConnection.connect(dsn, autocommit=True) for _ in range(count)]
    try:
        return await work(connections)
    finally:
        await asyncio.gather(*(connection.close() for connection in connections))
