"""Cancelling, retrying and deleting by filter."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest

from tests.integration.admin.toolkit import (
    AVAILABLE,
    DEAD,
    LEASED,
    SCHEDULED,
    SUCCEEDED,
    Admin,
)
from tests.sql import Inspector
from tests.toolkit import Api, eventually, refusal, request, seconds
from workerqueue.v1 import lease_pb2, task_admin_pb2
from workerqueue.v1.task_admin_pb2 import (
    CancelTasksRequest,
    DeleteTasksRequest,
    RetryTasksRequest,
    TaskFilter,
)


async def test_a_dry_run_counts_and_changes_nothing(api: Api, admin: Admin, queue: str) -> None:
    ids = await api.ids([request(queue=queue) for _ in range(2500)])
    for call in (
        admin.stub.CancelTasks(CancelTasksRequest(filter=TaskFilter(queues=[queue]), dry_run=True)),
        admin.stub.DeleteTasks(DeleteTasksRequest(filter=TaskFilter(queues=[queue]), dry_run=True)),
    ):
        progress = await admin.bulk(call)
        assert (progress.matched, progress.changed) == (2500, 0)
        assert progress.examined >= 2500
    assert await admin.depths(queue) == {"available": len(ids)}


async def test_everything_live_is_cancelled_running_tasks_too(
    api: Api, admin: Admin, queue: str
) -> None:
    await api.ids([request(queue=queue) for _ in range(1200)])
    await api.ids([request(queue=queue, concurrency_key=f"{queue}-{n % 10}") for n in range(100)])
    await api.ids([request(queue=queue, delay=seconds(600)) for _ in range(50)])
    async with api.worker(queue, window=3) as worker:
        running = await worker.tasks(3)
        progress = await admin.bulk(
            admin.stub.CancelTasks(CancelTasksRequest(filter=TaskFilter(queues=[queue])))
        )
        assert progress.changed == progress.matched
        for leased in running:
            reason = await worker.cancellation(leased.lease_token)
            assert reason == lease_pb2.CANCELLATION_REASON_CANCELLED
        # The window is free again; whoever it got meanwhile was cancelled too, or is one of a key.
    await admin.bulk(admin.stub.CancelTasks(CancelTasksRequest(filter=TaskFilter(queues=[queue]))))
    assert await admin.depths(queue) == {"cancelled": 1350}


async def test_dead_tasks_of_a_kind_are_retried_and_others_are_not(
    api: Api, admin: Admin, queue: str
) -> None:
    dead = [await admin.die(queue) for _ in range(3)]
    cancelled = await api.enqueue(queue=queue)
    await admin.cancel(cancelled.task_id)
    waiting = await api.enqueue(queue=queue, delay=seconds(600))
    progress = await admin.bulk(
        admin.stub.RetryTasks(
            RetryTasksRequest(filter=TaskFilter(kinds=["runFinished"], queues=[queue]))
        )
    )
    assert progress.changed == 3
    assert {task.task_id for task in await api.take(queue)} == set(dead)
    assert await admin.depths(queue) == {"leased": 3, "cancelled": 1, "scheduled": 1}
    progress = await admin.bulk(
        admin.stub.RetryTasks(
            RetryTasksRequest(filter=TaskFilter(queues=[queue], states=[SCHEDULED]))
        )
    )
    assert progress.changed == 1
    assert (await admin.get(waiting.task_id)).state == AVAILABLE


async def test_leased_tasks_are_deleted_only_when_named(api: Api, admin: Admin, queue: str) -> None:
    await api.ids([request(queue=queue) for _ in range(3)])
    (leased, _) = await api.take(queue, 2)
    await api.ack(leased.lease_token)
    progress = await admin.bulk(
        admin.stub.DeleteTasks(DeleteTasksRequest(filter=TaskFilter(queues=[queue])))
    )
    assert progress.changed == 2
    assert await admin.depths(queue) == {"leased": 1}
    progress = await admin.bulk(
        admin.stub.DeleteTasks(
            DeleteTasksRequest(filter=TaskFilter(queues=[queue], states=[LEASED]))
        )
    )
    assert progress.changed == 1
    assert await admin.ids(queues=[queue]) == []


@pytest.mark.parametrize(
    ("call", "task_filter", "wrong"),
    [
        ("CancelTasks", {}, "filter"),
        ("RetryTasks", {}, "filter"),
        ("DeleteTasks", {}, "filter"),
        ("CancelTasks", {"states": [DEAD]}, "filter.states"),
        ("RetryTasks", {"states": [SUCCEEDED]}, "filter.states"),
        ("RetryTasks", {"states": [LEASED]}, "filter.states"),
        ("DeleteTasks", {"states": [77]}, "filter.states[0]"),
    ],
)
async def test_a_dangerous_or_senseless_filter_is_refused(
    admin: Admin, call: str, task_filter: dict[str, Any], wrong: str
) -> None:
    message = getattr(task_admin_pb2, f"{call}Request")(filter=TaskFilter(**task_filter))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await admin.bulk(getattr(admin.stub, call)(message))
    problem = refusal(caught.value)
    assert (problem.code, set(problem.fields)) == (grpc.StatusCode.INVALID_ARGUMENT, {wrong})


async def test_bulk_work_amid_workers_and_other_operators_loses_nothing(
    api: Api, admin: Admin, sql: Inspector, queue: str
) -> None:
    """Every task ends in exactly one terminal state, and what was acked stays acked."""
    ids = await api.ids(
        [
            request(queue=queue, concurrency_key=f"{queue}-{n % 7}" if n % 2 else None)
            for n in range(3000)
        ]
    )
    acked: set[str] = set()
    stop = asyncio.Event()

    async def work() -> None:
        async with api.worker(queue, window=50) as worker:
            place = 0
            while not stop.is_set():
                await asyncio.sleep(0.01)
                arrived, place = worker.received[place:], len(worker.received)
                for number, leased in enumerate(arrived):
                    if number % 5 == 0:
                        await worker.fail(leased.lease_token, permanent=True)
                        continue
                    await worker.ack(leased.lease_token)
                    if await worker.result(leased.lease_token) is None:
                        acked.add(leased.task_id)

    async def cancel() -> None:
        chosen = TaskFilter(queues=[queue], concurrency_key=f"{queue}-3")
        await admin.bulk(admin.stub.CancelTasks(CancelTasksRequest(filter=chosen)))

    async def retry() -> None:
        chosen = TaskFilter(queues=[queue])
        while not stop.is_set():
            await admin.bulk(admin.stub.RetryTasks(RetryTasksRequest(filter=chosen)))
            await asyncio.sleep(0.05)

    workers = [asyncio.create_task(work()) for _ in range(2)]
    operators = [asyncio.create_task(retry()), asyncio.create_task(cancel())]
    # Until much has been acked, after failures that were retried meanwhile too.
    await eventually(lambda: len(acked) >= 500, "500 acks")
    stop.set()
    await asyncio.gather(*workers, *operators)
    await admin.bulk(admin.stub.CancelTasks(CancelTasksRequest(filter=TaskFilter(queues=[queue]))))
    states = await sql.states(ids)
    assert sum(states.values()) == len(ids)
    assert set(states) <= {"succeeded", "dead", "cancelled"}
    assert states["succeeded"] >= len(acked)
    assert (await sql.states(sorted(acked))) == {"succeeded": len(acked)}
