"""A server that cannot work says why, ends, and leaves the database as it is."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

from tests.chaos.harness.processes import SmallDisk, Standby
from tests.postgres import Database, PostgresCluster, available_majors
from tests.servers import ServerProcess
from tests.toolkit import connected

_CANNOT_START = 3

pytestmark = pytest.mark.slow


def schema(dsn: str) -> list[tuple[object, ...]]:
    """What the database has, as far as a start could change it."""
    with psycopg.connect(dsn) as connection:
        return connection.execute(
            """
            select 'relation', c.relname::text, c.relkind::text from pg_class c
             where c.relnamespace = to_regnamespace('workerqueue')
             union all
            select 'function', p.proname::text, md5(p.prosrc) from pg_proc p
             where p.pronamespace = to_regnamespace('workerqueue')
             order by 1, 2, 3
            """
        ).fetchall()


def refused(dsn: str, *arguments: str) -> str:
    """Starts a server that must not start; what it says."""
    server = ServerProcess(dsn, arguments=arguments)
    server.launch()
    assert server.wait() == _CANNOT_START, server.log()
    assert "Traceback" not in server.log()
    assert "workerqueue: cannot start: " in server.log()
    return server.log()


async def works(dsn: str) -> None:
    """A server starts and takes a task."""
    with ServerProcess(dsn) as server:
        async with connected(server.address) as api:
            await api.enqueue(queue="q")
            assert len(await api.take("q")) == 1


async def test_a_schema_that_is_too_old_and_may_not_be_changed(database: Database) -> None:
    await works(database.dsn)
    with psycopg.connect(database.dsn, autocommit=True) as connection:
        connection.execute("delete from workerqueue.migrations where version > 10")
    before = schema(database.dsn)
    assert "migrat" in await asyncio.to_thread(refused, database.dsn, "--no-migrate")
    assert schema(database.dsn) == before


async def test_a_database_that_is_read_only(database: Database) -> None:
    name = psycopg.sql.Identifier(database.name)
    await works(database.dsn)
    before = schema(database.dsn)
    with psycopg.connect(database.dsn, autocommit=True) as connection:
        setting = psycopg.sql.SQL("alter database {} set default_transaction_read_only = {}")
        connection.execute(setting.format(name, psycopg.sql.SQL("on")))
        assert "read-only" in await asyncio.to_thread(refused, database.dsn)
        assert schema(database.dsn) == before
        connection.execute("set default_transaction_read_only = off")
        connection.execute(setting.format(name, psycopg.sql.SQL("off")))
    await works(database.dsn)


async def test_a_standby_refuses_and_a_server_works_once_it_is_promoted(
    own_postgres: PostgresCluster,
) -> None:
    await works(own_postgres.dsn("postgres"))
    standby = Standby(own_postgres)
    try:
        standby.start()
        assert "read-only" in await asyncio.to_thread(refused, standby.dsn("postgres"))
        own_postgres.stop("immediate")
        with psycopg.connect(standby.dsn("postgres"), autocommit=True) as connection:
            connection.execute("select pg_promote()")
        await works(standby.dsn("postgres"))
    finally:
        standby.destroy()


@contextmanager
def cluster_on(disk: SmallDisk) -> Iterator[PostgresCluster]:
    cluster = PostgresCluster(next(iter(available_majors())), parent=disk.path)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.destroy()


@contextmanager
def small_disk(size_mb: int) -> Iterator[SmallDisk]:
    if reason := SmallDisk.unavailable():
        pytest.skip(reason)
    disk = SmallDisk(size_mb)
    try:
        yield disk
    finally:
        disk.close()


async def test_a_full_disk(tmp_path: Path) -> None:
    with small_disk(400) as disk, cluster_on(disk) as cluster:
        disk.fill()
        before = schema(cluster.dsn("postgres"))
        said = await asyncio.to_thread(refused, cluster.dsn("postgres"))
        assert "No space left on device" in said
        disk.empty()
        with contextlib.suppress(RuntimeError):
            cluster.start()
        assert schema(cluster.dsn("postgres")) == before
        await works(cluster.dsn("postgres"))
