"""Three servers make the ticks of many schedules while they are killed and frozen at random."""

from __future__ import annotations

import asyncio
import random
import time
from contextlib import ExitStack
from datetime import UTC, timedelta

import pytest
from psycopg import AsyncConnection

from tests.postgres import Database
from tests.servers import ServerProcess
from tests.sql import Inspector, Row
from tests.toolkit import connected, eventually, request
from workerqueue.v1 import schedule_pb2 as pb
from workerqueue.v1.worker_queue_admin_pb2_grpc import WorkerQueueAdminStub

pytestmark = pytest.mark.slow

# Every second a hundred and twenty tasks, so that a kill hits work that is under way.
ALLOWED = [f"allow-{number}" for number in range(100)]
SKIPPED = [f"skip-{number}" for number in range(10)]
REPLACED = [f"replace-{number}" for number in range(10)]
CHAOS_SECONDS = 20
SECOND = timedelta(seconds=1)


def definition(name: str) -> pb.Schedule:
    policy = f"OVERLAP_POLICY_{name.partition('-')[0].upper()}"
    return pb.Schedule(
        schedule_id=name,
        cron="* * * * * *",
        task=request(queue="ticks"),
        catch_up=pb.CATCH_UP_POLICY_ALL,
        catch_up_limit=1000,
        overlap=policy,
    )


async def havoc(group: list[ServerProcess], pick: random.Random) -> None:
    """Kills or freezes servers in the middle of a tick; each comes back a while later."""
    loop = asyncio.get_running_loop()
    end = loop.time() + CHAOS_SECONDS
    kills = 0
    while loop.time() < end:
        for server in group:
            if server.returncode is not None and pick.random() < 0.7:
                server.launch()
        # Nothing to wait for: the work begins at the full second and takes some hundredths.
        await asyncio.sleep(1 - time.time() % 1 + pick.uniform(0, 0.08))
        alive = [server for server in group if server.returncode is None]
        if pick.random() < 0.2:
            for server in alive:
                server.freeze()
            await asyncio.sleep(pick.uniform(0.1, 1))
            for server in alive:
                server.thaw()
            continue
        for server in pick.sample(alive, pick.randint(min(1, len(alive)), len(alive))):
            await asyncio.to_thread(server.kill)
            kills += 1
    assert kills > 10


async def made(sql: Inspector) -> dict[str, list[Row]]:
    """The tasks of each schedule by tick."""
    rows = await sql.rows(
        """
        select t.state::text, t.metadata ->> 'workerqueue.schedule' as schedule,
               (t.metadata ->> 'workerqueue.tick')::timestamptz as tick
          from (select state, metadata from workerqueue.tasks
                 union all
                select state, metadata from workerqueue.history) t
         order by 3
        """
    )
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row["schedule"], []).append(row)
    return found


def check_allowed(tasks: list[Row], schedule: Row) -> None:
    """No tick is missing, none is there twice."""
    begin = schedule["created_at"].astimezone(UTC).replace(microsecond=0) + SECOND
    count = (schedule["last_tick"] - begin) // SECOND + 1
    assert count >= CHAOS_SECONDS / 2
    assert [row["tick"] for row in tasks] == [begin + number * SECOND for number in range(count)]
    assert schedule["tasks_made"] == count


def check_replaced(tasks: list[Row], schedule: Row) -> None:
    """The last tick's task is there, and took the place of all others."""
    ticks = [row["tick"] for row in tasks]
    assert ticks == sorted(set(ticks))
    assert ticks[-1] == schedule["last_tick"]
    assert [row["state"] for row in tasks] == ["cancelled"] * (len(tasks) - 1) + ["available"]


async def create_all(address: str) -> None:
    async with connected(address) as api:
        admin = WorkerQueueAdminStub(api.channel)
        for name in ALLOWED + SKIPPED + REPLACED:
            await admin.CreateSchedule(pb.CreateScheduleRequest(schedule=definition(name)))


async def settle(group: list[ServerProcess], sql: Inspector) -> None:
    """Brings all servers back, waits until they have caught up, and stops the schedules."""
    for server in group:
        if server.returncode is not None:
            server.launch()
    stopped = await sql.value("select clock_timestamp()")

    async def caught_up() -> bool:
        return bool(await sql.value("select min(next_tick) from workerqueue.schedules") > stopped)

    await eventually(caught_up, "all ticks are dealt with", limit=120)
    await sql.rows("update workerqueue.schedules set paused = true")
    for server in group:
        await asyncio.to_thread(server.wait_until_serving)


async def test_every_tick_makes_one_task_whoever_dies(database: Database) -> None:
    group = [ServerProcess(database.dsn, name=f"server {number}") for number in range(3)]
    with ExitStack() as stack:
        for server in group:
            # What a server that was frozen in the middle finds.
            server.tolerated = "idle-in-transaction"
            server.launch()
            stack.enter_context(server)
        for server in group:
            await asyncio.to_thread(server.wait_until_serving)
        async with await AsyncConnection.connect(database.dsn, autocommit=True) as connection:
            sql = Inspector(connection)
            await create_all(group[0].address)
            await havoc(group, random.Random(20260329))
            await settle(group, sql)
            tasks = await made(sql)
            rows = await sql.rows("select * from workerqueue.schedules")

    schedules = {row["schedule_id"]: row for row in rows}
    for name in ALLOWED:
        check_allowed(tasks[name], schedules[name])
    for name in SKIPPED:
        # Nobody works on it, so the first is in the way of all others.
        assert [row["state"] for row in tasks[name]] == ["available"]
    for name in REPLACED:
        check_replaced(tasks[name], schedules[name])
