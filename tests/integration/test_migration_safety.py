"""Upgrades: two versions on one database, and a migration that fails."""

from __future__ import annotations

import asyncio
import io
import os
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import AsyncConnection

from tests.integration.admin.toolkit import DEAD, RETRYING, SUCCEEDED, Admin
from tests.postgres import Database, PostgresCluster
from tests.servers import ServerProcess
from tests.sql import Inspector
from tests.toolkit import Api, connected, eventually, request, seconds
from workerqueue.tasks.v1 import tasks_pb2
from workerqueue.v1 import schedule_pb2
from workerqueue_server.store import migrator
from workerqueue_server.store.errors import StoreError
from workerqueue_server.store.migrator import Migration, load_migrations, migrate

_REPOSITORY = Path(__file__).parents[2]
# Stands for the previous release while there is none: the last commit before migration 0017.
_BASE = "bc3e14d"
_BASE_MIGRATION = 16

pytestmark = pytest.mark.slow


def _git(*arguments: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        ["git", "-C", str(_REPOSITORY), *arguments], capture_output=True, check=False
    )


@pytest.fixture(scope="module")
def previous(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The PYTHONPATH of the previous release's code, or of the base commit's."""
    tag = _git("describe", "--tags", "--abbrev=0", "--match", "v*", "HEAD^")
    version = tag.stdout.decode().strip() if tag.returncode == 0 else _BASE
    archive = _git("archive", "--format=tar", version, "server", "client_py")
    if archive.returncode != 0:
        pytest.skip(f"the previous version ({version}) is not in this clone's history")
    folder = tmp_path_factory.mktemp("previous")
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as tar:
        tar.extractall(folder, filter="data")
    return os.pathsep.join([str(folder / "server"), str(folder / "client_py")])


@contextmanager
def old_server(database: Database, previous: str) -> Iterator[ServerProcess]:
    """A server of the previous version."""
    server = ServerProcess(database.dsn, name="old server")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", previous)
        server.launch()
    with server:
        server.wait_until_serving()
        yield server


def test_the_previous_version_is_what_runs(previous: str) -> None:
    found = subprocess.run(
        [sys.executable, "-c", "import workerqueue_server as s; print(s.__file__)"],
        env={**os.environ, "PYTHONPATH": previous},
        capture_output=True,
        check=True,
    )
    assert found.stdout.decode().startswith(previous.split(os.pathsep, maxsplit=1)[0])


async def test_both_versions_work_on_one_database(previous: str, database: Database) -> None:
    with (
        ServerProcess(database.dsn, name="new server") as new,
        old_server(database, previous) as old,
    ):
        assert "applied migration" not in old.log()
        async with connected(new.address) as new_api, connected(old.address) as old_api:
            for one, other in ((new_api, old_api), (old_api, new_api)):
                await _attempts(one, other)
                await _key_hand_over(one, other)
                await _job_key(one, other)
                await _stream(one, other)


async def _attempts(one: Api, other: Api) -> None:
    """Stored by one, worked on through the other, and answered for at both."""
    ids = await one.ids([request(queue="attempts", max_attempts=2) for _ in range(3)])
    leased = {task.task_id: task.lease_token for task in await other.take("attempts")}
    assert leased.keys() == set(ids)
    await one.heartbeat(leased[ids[0]])
    await one.ack(leased[ids[0]])
    await other.ack(leased[ids[0]])
    await one.fail(leased[ids[1]], retry_after=seconds(0.1))
    await other.fail(leased[ids[2]], permanent=True)
    admin = Admin(one)
    assert await admin.state(ids[0]) == SUCCEEDED
    assert await admin.state(ids[2]) == DEAD
    again: list[Any] = []

    async def retried() -> bool:
        again.extend(await one.take("attempts"))
        return bool(again)

    await eventually(retried, "the second attempt")
    assert (again[0].task_id, again[0].attempt) == (ids[1], 2)
    await other.release(again[0].lease_token)
    (last,) = await other.take("attempts")
    assert last.attempt == 2
    await one.ack(last.lease_token)


async def _key_hand_over(one: Api, other: Api) -> None:
    run = tasks_pb2.PerformRunExecution(id="run")
    ids = await one.ids([request(run, queue="keys"), request(run, queue="keys")])
    (first,) = await other.take("keys")
    assert first.task_id == ids[0]
    await one.ack(first.lease_token)
    (second,) = await other.take("keys")
    assert second.task_id == ids[1]
    await other.ack(second.lease_token)


async def _job_key(one: Api, other: Api) -> None:
    waiting = await one.enqueue(queue="jobs", job_key="job")
    assert (await other.enqueue(queue="jobs", job_key="job")).task_id == waiting.task_id
    (running,) = await one.take("jobs")
    successor = await other.enqueue(queue="jobs", job_key="job")
    assert await one.take("jobs") == []
    await one.fail(running.lease_token)
    assert await Admin(other).state(waiting.task_id) != RETRYING
    (passed,) = await other.take("jobs")
    assert passed.task_id == successor.task_id
    await one.ack(passed.lease_token)


async def _stream(one: Api, other: Api) -> None:
    async with other.worker("stream") as worker:
        task = await one.enqueue(queue="stream")
        got = await worker.task()
        assert got.task_id == task.task_id
        await worker.acked(got.lease_token)


async def test_ticks_of_both_versions_make_one_task_each(previous: str, database: Database) -> None:
    """Whichever creates a schedule, both make its ticks; and each goes on without the other."""
    with (
        ServerProcess(database.dsn, name="new server") as new,
        old_server(database, previous) as old,
    ):
        for server in (new, old):
            async with connected(server.address) as api:
                for number in range(10):
                    schedule = schedule_pb2.Schedule(
                        schedule_id=f"{server.name} {number}".replace(" ", "-"),
                        cron="* * * * * *",
                        task=request(queue="ticks"),
                        catch_up=schedule_pb2.CATCH_UP_POLICY_ALL,
                        catch_up_limit=1000,
                        overlap=schedule_pb2.OVERLAP_POLICY_ALLOW,
                    )
                    await Admin(api).stub.CreateSchedule(
                        schedule_pb2.CreateScheduleRequest(schedule=schedule)
                    )
        async with await AsyncConnection.connect(database.dsn, autocommit=True) as connection:
            sql = Inspector(connection)
            await _more_ticks(sql, 4)
            assert await asyncio.to_thread(new.stop) == 0
            await _more_ticks(sql, 2)
            new.launch()
            await asyncio.to_thread(new.wait_until_serving)
            assert await asyncio.to_thread(old.stop) == 0
            await _more_ticks(sql, 2)
            await sql.rows("update workerqueue.schedules set paused = true")
            counted = await sql.rows(_TICKS)
    assert len(counted) == 20
    for row in counted:
        assert row["tasks"] == row["different"] == row["ticks"] >= 8, row


_TICKS = """
    select s.schedule_id, count(*) as tasks, count(distinct t.metadata ->> 'workerqueue.tick')
             as different,
           -- From the first full second after its creation to its last tick.
           extract(epoch from s.last_tick - date_trunc('second', s.created_at))::int as ticks
      from workerqueue.schedules s
      join workerqueue.tasks t on t.metadata ->> 'workerqueue.schedule' = s.schedule_id
     group by s.schedule_id
"""


async def _more_ticks(sql: Inspector, count: int) -> None:
    """Waits until all schedules have made the ticks of so many more seconds."""
    until = await sql.value("select clock_timestamp() + make_interval(secs => %s)", count)

    async def made() -> bool:
        query = "select min(last_tick) >= %s::timestamptz from workerqueue.schedules"
        return bool(await sql.value(query, until))

    await eventually(made, f"{count} seconds more of ticks")


async def test_leases_from_before_a_migration_end_by_their_clocks(
    previous: str, database: Database
) -> None:
    """The former release granted them; they are watched as before."""
    with old_server(database, previous) as old:
        async with connected(old.address) as api:
            ids = await api.ids([request(queue="held", max_attempts=1)] * 150)
            assert len(await api.take("held", 150, lease_duration=5)) == 150
            with ServerProcess(database.dsn, name="new server") as new:
                async with connected(new.address) as new_api:
                    admin = Admin(new_api)
                    for task_id in (ids[0], ids[-1]):

                        async def lost(task_id: str = task_id) -> bool:
                            return await admin.state(task_id) == DEAD

                        await eventually(lost, "the lease ends")


_SCHEMA = """
    with mine as (
      select c.oid, c.relname, c.relkind, c.reloptions
        from pg_class c
       where c.relnamespace = 'workerqueue'::regnamespace
         -- Partitions are made by the day.
         and c.relname !~ '_[0-9]{8}'
    )
    select 'relation ' || relname, concat_ws(' ', relkind, reloptions) from mine
    union all
    select format('column %s.%s', m.relname, a.attname),
           concat_ws(' ', format_type(a.atttypid, a.atttypmod), a.attnotnull,
                     a.attcollation, a.attidentity, pg_get_expr(d.adbin, d.adrelid))
      from mine m
      join pg_attribute a on a.attrelid = m.oid and a.attnum > 0 and not a.attisdropped
      left join pg_attrdef d on d.adrelid = m.oid and d.adnum = a.attnum
     where m.relkind in ('r', 'p')
    union all
    select 'index ' || m.relname, pg_get_indexdef(m.oid) from mine m where m.relkind in ('i', 'I')
    union all
    select format('constraint %s.%s', m.relname, k.conname), pg_get_constraintdef(k.oid)
      from mine m join pg_constraint k on k.conrelid = m.oid
    union all
    select format('trigger %s.%s', m.relname, t.tgname), pg_get_triggerdef(t.oid)
      from mine m join pg_trigger t on t.tgrelid = m.oid
    union all
    select 'function ' || p.oid::regprocedure::text,
           pg_get_functiondef(p.oid) || coalesce(p.proacl::text, '')
      from pg_proc p where p.pronamespace = 'workerqueue'::regnamespace and p.prokind = 'f'
    union all
    select 'enum ' || t.typname, string_agg(e.enumlabel, ' ' order by e.enumsortorder)
      from pg_type t join pg_enum e on e.enumtypid = t.oid
     where t.typnamespace = 'workerqueue'::regnamespace
     group by t.typname
"""


def _schema(database: Database) -> dict[str, str]:
    """Everything the schema consists of, by its name."""
    with psycopg.connect(database.dsn) as connection:
        return dict(connection.execute(_SCHEMA).fetchall())


async def test_an_upgraded_schema_is_that_of_a_fresh_database(
    postgres: PostgresCluster, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    fresh = postgres.create_database()
    await migrate(fresh.dsn)
    known = load_migrations()
    with monkeypatch.context() as patch:
        patch.setattr(
            migrator, "load_migrations", lambda: [m for m in known if m.version <= _BASE_MIGRATION]
        )
        await migrate(database.dsn)
    assert _schema(database) != _schema(fresh)
    await migrate(database.dsn)
    assert _schema(database) == _schema(fresh)


@pytest.mark.parametrize("sql", ["select 1 / 0", "select nothing from nowhere"])
async def test_a_failed_migration_leaves_a_database_to_work_with(
    database: Database, monkeypatch: pytest.MonkeyPatch, sql: Any
) -> None:
    known = load_migrations()
    await migrate(database.dsn)
    before = _schema(database)
    half: Any = f"-- Half of it.\n--\ncreate table workerqueue.half (n integer); {sql};"
    with monkeypatch.context() as patch:
        patch.setattr(
            migrator, "load_migrations", lambda: [*known, Migration(9000, "half", half, None)]
        )
        with pytest.raises(StoreError):
            await migrate(database.dsn)
    assert _schema(database) == before
    assert await migrate(database.dsn) == []
    with ServerProcess(database.dsn) as server:
        async with connected(server.address) as api:
            task = await api.enqueue(queue="q")
            assert [got.task_id for got in await api.take("q")] == [task.task_id]
