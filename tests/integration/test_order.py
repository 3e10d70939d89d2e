"""Who is next: priorities, the order of arrival, due times, fair queues, kinds, expiry."""

from __future__ import annotations

import asyncio
import uuid
from collections import Counter
from datetime import timedelta
from typing import Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from psycopg import AsyncConnection
from psycopg.types.json import Jsonb

from tests.postgres import Database
from tests.sql import Inspector
from tests.toolkit import Api, eventually, request, seconds
from workerqueue.tasks.v1 import tasks_pb2


async def in_seconds(sql: Inspector, offset: float) -> Timestamp:
    """A time by the database's clock."""
    at = Timestamp()
    at.FromDatetime(await sql.value("select clock_timestamp()") + timedelta(seconds=offset))
    return at


async def test_larger_priority_first_then_the_order_of_arrival(api: Api, queue: str) -> None:
    priorities = [0, 5, -5, 5, 1000, 0, -1000, 5]
    ids = await api.ids([request(queue=queue, priority=priority) for priority in priorities])
    expected = sorted(range(len(ids)), key=lambda n: (-priorities[n], n))
    assert [ids.index(task.task_id) for task in await api.take(queue)] == expected


async def test_order_holds_over_kinds_of_one_queue(api: Api, queue: str) -> None:
    messages = [
        tasks_pb2.RunFinished(id="a"),
        tasks_pb2.StartRun(id="b"),
        tasks_pb2.StopVM(id="c"),
        tasks_pb2.RunFinished(id="d"),
        tasks_pb2.StartRun(id="e"),
    ]
    ids = [(await api.enqueue(message, queue=queue, priority=0)).task_id for message in messages]
    got = [(await api.take(queue, 1))[0].task_id for _ in range(2)]
    got += [task.task_id for task in await api.take(queue, 10)]
    assert got == ids


async def test_an_urgent_task_overtakes_between_frames(api: Api, queue: str) -> None:
    ids = await api.ids([request(queue=queue) for _ in range(3)])
    async with api.worker(queue, window=1) as worker:
        first = await worker.task()
        urgent = await api.enqueue(queue=queue, priority=10)
        await worker.ack(first.lease_token)
        second = await worker.task()
        await worker.ack(second.lease_token)
        third = await worker.task()
    assert [first.task_id, second.task_id, third.task_id] == [ids[0], urgent.task_id, ids[1]]


async def test_many_priorities_in_one_queue_come_in_order(api: Api, queue: str) -> None:
    """More priorities than one grant reads."""
    priorities = [(n * 37) % 101 - 50 for n in range(101)]
    ids = await api.ids([request(queue=queue, priority=priority) for priority in priorities])
    async with api.worker(queue, window=7) as worker:
        got: list[str] = []
        while len(got) < len(ids):
            task = await worker.task()
            got.append(task.task_id)
            await worker.acked(task.lease_token)
    order = [priorities[ids.index(task_id)] for task_id in got]
    # A window of several may take the next ones while an ack is under way, but never out of line.
    assert order == sorted(priorities, reverse=True)


async def test_due_tasks_come_in_the_order_of_their_times(
    api: Api, queue: str, sql: Inspector
) -> None:
    # Far enough ahead for all of this to be stored before.
    start = (await in_seconds(sql, 3)).seconds
    due = [7, 3, 9, 1, 5]
    ids = await api.ids(
        [request(queue=queue, run_at=Timestamp(seconds=start, nanos=n * 1000)) for n in due]
    )
    assert await api.take(queue) == []
    async with api.worker(queue, window=1) as worker:
        got = []
        for _ in due:
            task = await worker.task()
            got.append(due[ids.index(task.task_id)])
            await worker.ack(task.lease_token)
    assert got == sorted(due)


async def test_a_task_that_becomes_due_stands_behind_what_was_available_before(
    api: Api, queue: str
) -> None:
    later = await api.enqueue(queue=queue, delay=seconds(1))
    now = await api.enqueue(queue=queue)
    probe = await api.enqueue(queue=f"{queue}-probe", delay=seconds(1))
    async with api.worker(f"{queue}-probe") as worker:
        assert (await worker.task()).task_id == probe.task_id
    assert [task.task_id for task in await api.take(queue)] == [now.task_id, later.task_id]


@pytest.mark.parametrize("option", ["run_at", "delay"])
async def test_a_scheduled_task_runs_within_a_second_of_its_time_and_not_before(
    api: Api, queue: str, sql: Inspector, option: str
) -> None:
    async with api.worker(queue) as worker:
        when: Any = await in_seconds(sql, 0.8) if option == "run_at" else seconds(0.8)
        task = await api.enqueue(queue=queue, **{option: when})
        await worker.task()
    row = await sql.task(task.task_id)
    late = (row["started_at"] - row["run_at"]).total_seconds()
    assert 0 <= late <= 3
    assert (row["run_at"] - row["created_at"]).total_seconds() > 0.2


async def test_a_task_in_the_far_future_harms_nobody(api: Api, queue: str) -> None:
    await api.enqueue(queue=queue, run_at=Timestamp(seconds=253_402_300_799))
    soon = await api.enqueue(queue=queue, delay=seconds(0.1))
    async with api.worker(queue) as worker:
        assert (await worker.task()).task_id == soon.task_id


async def test_a_task_not_started_by_expire_at_is_dropped(
    api: Api, queue: str, sql: Inspector
) -> None:
    past = await api.enqueue(queue=queue, expire_at=await in_seconds(sql, -1))
    soon = await api.enqueue(queue=queue, expire_at=await in_seconds(sql, 0.5))
    waiting = await api.enqueue(
        queue=queue, delay=seconds(3600), expire_at=await in_seconds(sql, 0.5)
    )
    later = await api.enqueue(queue=queue, expire_at=await in_seconds(sql, 3600))

    async def dropped() -> bool:
        return await sql.states([past.task_id, soon.task_id, waiting.task_id]) == {"expired": 3}

    await eventually(dropped, "what was not started in time is dropped")
    assert [task.task_id for task in await api.take(queue)] == [later.task_id]
    assert (await sql.task(past.task_id))["attempt"] == 0


async def test_an_expired_task_is_never_granted_even_before_it_is_dropped(
    api: Api, queue: str, sql: Inspector
) -> None:
    expired = await in_seconds(sql, -1)
    async with api.worker(queue) as worker:
        for _ in range(5):
            await api.enqueue(queue=queue, expire_at=expired)
        last = await api.enqueue(queue=queue)
        assert (await worker.task()).task_id == last.task_id
        assert len(worker.received) == 1


async def test_a_started_task_does_not_expire(api: Api, queue: str, sql: Inspector) -> None:
    task = await api.enqueue(queue=queue, expire_at=await in_seconds(sql, 2))
    (leased,) = await api.take(queue)
    await api.fail(leased.lease_token, retry_after=seconds(2))
    async with api.worker(queue) as worker:
        again = await worker.task()
    assert (again.task_id, again.attempt) == (task.task_id, 2)


async def test_a_busy_queue_does_not_starve_the_others_of_its_subscription(
    api: Api, queue: str
) -> None:
    quiet = [f"{queue}-quiet-{n}" for n in range(3)]
    await api.ids([request(queue=queue)] * 5_000)
    for name in quiet:
        await api.ids([request(queue=name)] * 10)
    async with api.worker([queue, *quiet], window=20) as worker:
        got: Counter[str] = Counter()
        # Fair shares mean that the quiet ones are through long before the busy one.
        while sum(got.values()) < 200:
            task = await worker.task()
            got[task.queue] += 1
            await worker.ack(task.lease_token)
    assert [got[name] for name in quiet] == [10, 10, 10]
    assert got[queue] == 170


async def test_priority_does_not_count_between_queues(api: Api, queue: str) -> None:
    await api.ids([request(queue=queue, priority=100)] * 500)
    await api.ids([request(queue=f"{queue}-low", priority=-100)] * 5)
    async with api.worker([queue, f"{queue}-low"], window=10) as worker:
        got: Counter[str] = Counter()
        while sum(got.values()) < 100:
            task = await worker.task()
            got[task.queue] += 1
            await worker.ack(task.lease_token)
    assert got[f"{queue}-low"] == 5


async def test_a_kinds_filter_takes_only_those_kinds_from_any_queue(api: Api, queue: str) -> None:
    await api.enqueue(tasks_pb2.RunFinished(id="no"), queue=queue)
    other = await api.enqueue(tasks_pb2.StopVM(id="yes"), queue=f"{queue}-b")
    here = await api.enqueue(tasks_pb2.StopVM(id="yes"), queue=queue)
    got = await api.take(queue, kinds=["stopVM"])
    assert [task.task_id for task in got] == [here.task_id]
    got = await api.take(kinds=["stopVM"])
    assert other.task_id in [task.task_id for task in got]
    assert {task.kind for task in got} == {"stopVM"}


async def test_a_subscription_without_queues_and_kinds_takes_everything(
    api: Api, queue: str
) -> None:
    # More than what other tests have left: it would take the place of what comes now.
    async with api.worker((), window=100_000) as worker:
        ids = [
            (await api.enqueue(tasks_pb2.StopVM(id="x"), queue=f"{queue}-new-{n}")).task_id
            for n in range(3)
        ]

        def arrived() -> bool:
            return {task.task_id for task in worker.received} >= set(ids)

        await eventually(arrived, "tasks of queues that are new arrive")
        # Others are of earlier tests, and some of these have short leases.
        own = [task.lease_token for task in worker.received if task.task_id in ids]
        await worker.acked(*own)


async def test_a_grant_that_had_to_wait_gives_the_newest_lease(
    api: Api, queue: str, sql: Inspector, server_database: Database
) -> None:
    """A task that another grant gave out and got back meanwhile."""
    narrow = f"{queue}-narrow"
    await sql.limit_queue(narrow, total=5, per_worker=None)
    await api.enqueue(queue=narrow)
    task = await api.enqueue(queue=queue)
    lanes = {
        row["queue"]: row["lane_id"]
        for row in await sql.rows(
            "select queue, lane_id from workerqueue.lanes where queue = any (%s)", [queue, narrow]
        )
    }

    async def grant(queues: list[str]) -> dict[str, int]:
        wanted = {
            "lanes": [lanes[name] for name in queues],
            "cursors": [0] * len(queues),
            "workers": ["w"],
            "wanted": 10,
        }
        async with await AsyncConnection.connect(server_database.dsn) as connection:
            cursor = await connection.execute(
                "select token from workerqueue.grant_leases(%s)", [Jsonb([wanted])]
            )
            tokens = [bytes(row[0]) for row in await cursor.fetchall()]
        return {str(uuid.UUID(bytes=t[:16])): int.from_bytes(t[16:], "big") for t in tokens}

    async with await AsyncConnection.connect(server_database.dsn) as other:
        await other.execute("select pg_advisory_xact_lock(7702, hashtext(%s))", [narrow])
        slow = asyncio.create_task(grant([narrow, queue]))

        async def waits() -> bool:
            # In this database: others of the cluster have locks of their own to wait for.
            return bool(
                await sql.value(
                    "select count(*) from pg_locks where not granted and locktype = 'advisory'"
                    " and database = (select oid from pg_database"
                    "                  where datname = current_database())"
                )
            )

        await eventually(waits, "the grant waits for the limited queue")
        first = (await grant([queue]))[task.task_id]
        await api.release(uuid.UUID(task.task_id).bytes + first.to_bytes(8, "big"))
    assert (await slow)[task.task_id] > first
