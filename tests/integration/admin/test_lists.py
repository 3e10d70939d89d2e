"""Lists of tasks: filters, and pages that stay whole while everything moves."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import pytest
from psycopg import AsyncConnection

from tests.integration.admin.toolkit import (
    AVAILABLE,
    BLOCKED,
    CANCELLED,
    DEAD,
    LEASED,
    SCHEDULED,
    SUCCEEDED,
    Admin,
)
from tests.postgres import Database
from tests.servers import ServerProcess
from tests.sql import Inspector
from tests.toolkit import Api, connected, eventually, packed, refused, request, seconds
from workerqueue.tasks.v1 import tasks_pb2
from workerqueue.v1 import task_admin_pb2, task_pb2


def newest_first(ids: list[str]) -> list[str]:
    return sorted(ids, reverse=True)


async def test_live_and_finished_tasks_are_one_list(api: Api, admin: Admin, queue: str) -> None:
    ids = await api.ids([request(queue=queue) for _ in range(9)])
    for leased in await api.take(queue, 3):
        await api.ack(leased.lease_token)
    await admin.cancel(ids[4])
    await api.take(queue, 2)
    assert await admin.ids(queues=[queue], size=2) == newest_first(ids)
    assert await admin.ids(queues=[queue], size=1000) == newest_first(ids)
    sizes = [len(page) async for page in admin.pages(queues=[queue], size=4)]
    assert sum(sizes) == 9
    assert max(sizes) <= 4


async def test_filters(api: Api, admin: Admin, queue: str) -> None:
    start = datetime.now(UTC)
    plain = (await api.enqueue(queue=queue)).task_id
    later = (await api.enqueue(queue=queue, delay=seconds(3600))).task_id
    tagged = (await api.enqueue(queue=queue, tags=["red", "blue"], delay=seconds(60))).task_id
    run = tasks_pb2.StartRun(id="r")
    other_kind = (await api.enqueue(run, queue=queue, delay=seconds(60))).task_id
    holder = (await api.enqueue(queue=f"{queue}-k", concurrency_key=queue)).task_id
    blocked = (await api.enqueue(queue=f"{queue}-k", concurrency_key=queue)).task_id
    job = (await api.enqueue(queue=queue, job_key=queue, delay=seconds(60))).task_id
    dead = await admin.die(f"{queue}-dead")
    running = (await api.enqueue(queue=f"{queue}-r")).task_id
    await api.take(f"{queue}-r", worker_id=f"worker-{queue}")
    queues = [queue, f"{queue}-k", f"{queue}-dead", f"{queue}-r"]

    async def found(**task_filter: Any) -> set[str]:
        return set(await admin.ids(**{"queues": queues, **task_filter}))

    everything = {plain, later, tagged, other_kind, holder, blocked, job, dead, running}
    assert await found() == everything
    assert await found(states=[AVAILABLE]) == {plain, holder}
    assert await found(states=[BLOCKED, DEAD]) == {blocked, dead}
    assert await found(states=[LEASED]) == {running}
    assert await found(states=[SCHEDULED], tags=["red"]) == {tagged}
    assert await found(tags=["red", "blue"]) == {tagged}
    assert await found(tags=["red", "green"]) == set()
    assert await found(kinds=["startRun"]) == {other_kind}
    assert await found(kinds=["startRun", "runFinished"]) == everything
    assert await found(kinds=["unheardOf"]) == set()
    assert await found(queues=[f"{queue}-k"]) == {holder, blocked}
    assert await found(concurrency_key=queue) == {holder, blocked}
    assert await found(job_key=queue) == {job}
    assert await found(worker_id=f"worker-{queue}") == {running}
    assert await found(error_type="Boom") == {dead}
    assert await found(created_after=start - timedelta(minutes=1)) == everything
    assert await found(created_before=start - timedelta(minutes=1)) == set()
    assert await found(finished_after=start - timedelta(minutes=1)) == {dead}
    assert await found(finished_before=start - timedelta(minutes=1)) == set()
    assert await found(states=[AVAILABLE], finished_after=start) == set()


async def test_the_basic_view_leaves_the_heavy_parts_out(
    api: Api, admin: Admin, queue: str
) -> None:
    task = await api.enqueue(queue=queue, metadata={"a": "b"})
    (leased,) = await api.take(queue)
    await api.ack(leased.lease_token, tasks_pb2.RunFinished(id="answer"))
    (basic,) = (await admin.page(queues=[queue])).tasks
    assert (basic.task_id, basic.state, dict(basic.metadata)) == (
        task.task_id,
        SUCCEEDED,
        {"a": "b"},
    )
    assert not basic.HasField("payload")
    assert not basic.HasField("result")
    (full,) = (await admin.page(queues=[queue], view=task_admin_pb2.TASK_VIEW_FULL)).tasks
    assert full.payload == task.payload
    assert full.result == packed(tasks_pb2.RunFinished(id="answer"))


async def test_pages_of_large_tasks_are_cut_to_fit(api: Api, admin: Admin, queue: str) -> None:
    large = tasks_pb2.DeliverScheduled(id="x")
    large.payload.string_value = "p" * (1500 * 1024)
    ids = [(await api.enqueue(large, queue=queue)).task_id for _ in range(5)]
    pages = [
        [task.task_id for task in page]
        async for page in admin.pages(queues=[queue], view=task_admin_pb2.TASK_VIEW_FULL)
    ]
    assert [task_id for page in pages for task_id in page] == newest_first(ids)
    assert max(map(len, pages)) == 2


async def test_a_list_stays_whole_while_tasks_move(api: Api, admin: Admin, queue: str) -> None:
    """Every task that exists all the while is listed exactly once; none comes twice."""
    lasting = set(await api.ids([request(queue=queue) for _ in range(300)]))
    doomed = await api.ids([request(queue=queue, delay=seconds(600)) for _ in range(100)])
    stop = asyncio.Event()

    async def churn() -> None:
        """Leases, finishes, kills, revives, deletes and adds tasks all over the list."""
        while not stop.is_set():
            leased = await api.take(queue, 20)
            for place, task in enumerate(leased):
                if place % 3 == 0:
                    await api.ack(task.lease_token)
                elif place % 3 == 1:
                    await api.fail(task.lease_token, permanent=True)
                    await admin.retry(task.task_id)
                else:
                    await api.release(task.lease_token)
            if doomed:
                await admin.delete(doomed.pop())
            await api.enqueue(queue=queue, delay=seconds(600))
            await api.enqueue(queue=queue, delay=seconds(600), task_id=str(uuid.uuid4()))

    churning = asyncio.create_task(churn())
    try:
        for _ in range(3):
            listed = await admin.ids(queues=[queue], size=7)
            assert len(listed) == len(set(listed))
            assert listed == newest_first(listed)
            assert lasting <= set(listed)
    finally:
        stop.set()
        await churning


async def test_a_filter_that_fits_nothing_ends(api: Api, admin: Admin, queue: str) -> None:
    assert await admin.ids(queues=[queue]) == []
    assert await admin.ids(states=[CANCELLED], worker_id="nobody") == []


@pytest.mark.parametrize(
    ("change", "wrong"),
    [
        ({"token": "x"}, "page_token"),
        ({"size": -1}, "page_size"),
        ({"states": [99]}, "filter.states[0]"),
        ({"states": [task_pb2.TASK_STATE_UNSPECIFIED]}, "filter.states[0]"),
        ({"concurrency_key": "k" * 513}, "filter.concurrency_key"),
        ({"kinds": ["a\x00"]}, "filter.kinds[0]"),
        ({"queues": ["other"]}, "page_token"),
    ],
)
async def test_a_wrong_request_is_refused(
    api: Api, admin: Admin, queue: str, change: dict[str, Any], wrong: str
) -> None:
    await api.ids([request(queue=queue) for _ in range(2)])
    token = change.pop("token", None)
    if token is None:
        token = (await admin.page(queues=[queue], size=1)).next_page_token
    size = change.pop("size", 0)
    task_filter = task_admin_pb2.TaskFilter(**{"queues": [queue], **change})
    problem = await refused(
        admin.stub.ListTasks(
            task_admin_pb2.ListTasksRequest(filter=task_filter, page_token=token, page_size=size)
        )
    )
    assert (problem.code, set(problem.fields)) == (grpc.StatusCode.INVALID_ARGUMENT, {wrong})


async def _nothing(_: Admin) -> None:
    pass


async def _rows_read(sql: Inspector) -> int:
    """Rows of tasks, live and finished, that were read so far by connections that are closed."""
    # Open ones tell what they have read when it pleases them, closed ones on their way out.
    await eventually(
        lambda: sql.value(
            """
            select count(*) = 0 from pg_stat_activity
             where datname = current_database() and pid <> pg_backend_pid()
               and backend_type = 'client backend'
            """
        ),
        "the other connections' end",
    )
    return int(
        await sql.value(
            """
            select sum(seq_tup_read + coalesce(idx_tup_fetch, 0))
              from pg_stat_user_tables
             where schemaname = 'workerqueue'
               and (relname = 'tasks' or relname like 'history%%')
            """
        )
    )


@pytest.mark.slow
async def test_no_call_reads_all_tasks(migrated: Database, queue: str) -> None:
    """With 100,000 finished and 20,000 scheduled tasks, each call reads a small part of them."""
    connection = await AsyncConnection.connect(migrated.dsn, autocommit=True)
    async with connection:
        sql = Inspector(connection)
        await sql.rows(
            "insert into workerqueue.lanes (queue, kind, priority) values (%s, 'runFinished', 0)",
            queue,
        )
        lane = await sql.value("select lane_id from workerqueue.lanes where queue = %s", queue)
        await sql.rows("insert into workerqueue.queues (name) values (%s)", queue)
        await sql.rows(
            """
            insert into workerqueue.history (
              id, lease_id, created_at, run_at, started_at, finished_at, retain_until, lane_id,
              timeout_ms, lease_duration_ms, state, attempt, max_attempts, concurrency_limit,
              payload)
            select gen_random_uuid(), n, now(), now(), now(), now(), now() + interval '1 day', %s,
                   60000, 30000, case when n %% 500 = 0 then 'dead' else 'succeeded' end
                     ::workerqueue.task_state, 1, 3, 1, '\\x0a0372756e'
              from generate_series(1, 100000) n
            """,
            lane,
        )
        await sql.rows(
            """
            insert into workerqueue.tasks (
              id, position, created_at, run_at, lane_id, timeout_ms, lease_duration_ms, state,
              priority, max_attempts, payload)
            select gen_random_uuid(), n, now(), now() + interval '1 day', %s, 60000, 30000,
                   'scheduled', 0, 3, '\\x0a0372756e'
              from generate_series(1, 20000) n
            """,
            lane,
        )

        async def cost(call: Callable[[Admin], Awaitable[Any]]) -> int:
            """The rows that a server reads from its start over this call to its end."""
            before = await _rows_read(sql)
            with ServerProcess(migrated.dsn) as server:
                async with connected(server.address) as api:
                    await call(Admin(api))
            return await _rows_read(sql) - before

        async def told(admin: Admin) -> None:
            depths = await admin.depths(queue)
            assert depths == {"succeeded": 99_800, "dead": 200, "scheduled": 20_000}
            assert len(await admin.ids(queues=[queue], states=[DEAD], size=50)) == 200

        await cost(told)
        idle = await cost(_nothing)
        assert idle < 20_000
        assert await cost(lambda admin: admin.queue(queue)) < 500 + 3 * idle
        assert await cost(lambda admin: admin.page(queues=[queue])) < 3_000 + 3 * idle
        assert (
            await cost(lambda admin: admin.page(queues=[queue], states=[DEAD], size=10))
            < 500 + 3 * idle
        )
        assert (
            await cost(lambda admin: admin.page(queues=[queue], states=[LEASED])) < 500 + 3 * idle
        )
        assert (
            await cost(lambda admin: admin.page(queues=[queue], tags=["none"])) < 60_000 + 3 * idle
        )
