"""Waiting for a task, whichever server changes it."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Iterator
from time import monotonic

import grpc
import pytest

from tests.integration.admin.toolkit import (
    AVAILABLE,
    CANCELLED,
    LEASED,
    RETRYING,
    SUCCEEDED,
    Admin,
)
from tests.postgres import Database
from tests.servers import ServerProcess
from tests.toolkit import Api, connected, packed, refusal, request, seconds
from workerqueue.tasks.v1 import tasks_pb2
from workerqueue.v1 import task_admin_pb2, task_pb2


@pytest.fixture(scope="module")
def second(server_database: Database, server: ServerProcess) -> Iterator[ServerProcess]:
    """Another server on the same database."""
    with ServerProcess(server_database.dsn, name="second server") as process:
        yield process


@pytest.fixture
async def elsewhere(second: ServerProcess) -> AsyncIterator[Api]:
    """The second server."""
    async with connected(second.address) as api:
        yield api


async def test_each_change_is_told_until_the_task_ends(
    api: Api, elsewhere: Api, admin: Admin, queue: str
) -> None:
    task = await api.enqueue(queue=queue, retry={"initial_backoff": seconds(0.3)})
    async with admin.watched(task.task_id) as watched:
        assert (await watched.next()).state == AVAILABLE
        (leased,) = await elsewhere.take(queue)
        assert (await watched.next()).state == LEASED
        await elsewhere.heartbeat(leased.lease_token, progress=task_pb2.Progress(fraction=0.5))
        assert (await watched.next()).progress.fraction == 0.5
        await elsewhere.fail(leased.lease_token, error={"type": "E"})
        failed = await watched.until(RETRYING)
        assert [a.error.type for a in failed.attempts] == ["E"]
        await watched.until(AVAILABLE)
        (leased,) = await elsewhere.take(queue)
        await watched.until(LEASED)
        await elsewhere.ack(leased.lease_token, tasks_pb2.RunFinished(id="answer"))
        (final,) = await watched.rest()
        assert final.state == SUCCEEDED
        assert final.result == packed(tasks_pb2.RunFinished(id="answer"))
        assert [a.attempt for a in final.attempts] == [1, 2]


async def test_a_result_through_another_server_comes_at_once(
    api: Api, elsewhere: Api, admin: Admin, queue: str
) -> None:
    """Hints, not the poll: a dozen waits in a row take less than a dozen polls."""
    started = monotonic()
    for _ in range(12):
        task = await api.enqueue(queue=queue)
        async with admin.watched(task.task_id) as watched:
            await watched.next()
            # The interest has reached the other server when it names the lease.
            (leased,) = await elsewhere.take(queue)
            await watched.until(LEASED)
            await elsewhere.ack(leased.lease_token)
            await watched.until(SUCCEEDED)
    assert monotonic() - started < 12


async def test_many_watch_one_task_and_one_watches_many(api: Api, admin: Admin, queue: str) -> None:
    tasks = await api.ids([request(queue=queue) for _ in range(50)])
    calls = [
        admin.stub.WatchTask(task_admin_pb2.WatchTaskRequest(task_id=task_id), timeout=60)
        for task_id in (*tasks, *tasks[:1] * 20)
    ]

    async def last(call: grpc.aio.UnaryStreamCall) -> task_pb2.TaskState:  # type: ignore[type-arg]
        answers = [answer async for answer in call]
        state: task_pb2.TaskState = answers[-1].task.state
        return state

    waiting = [asyncio.create_task(last(call)) for call in calls]
    for leased in await api.take(queue):
        await api.ack(leased.lease_token)
    assert set(await asyncio.gather(*waiting)) == {SUCCEEDED}


async def test_a_finished_task_is_told_once(api: Api, admin: Admin, queue: str) -> None:
    task = await api.enqueue(queue=queue)
    await admin.cancel(task.task_id)
    async with admin.watched(task.task_id) as watched:
        assert [t.state for t in await watched.rest()] == [CANCELLED]


async def test_a_deleted_or_unknown_task_ends_the_watch(api: Api, admin: Admin, queue: str) -> None:
    task = await api.enqueue(queue=queue)
    for task_id in (task.task_id, str(uuid.uuid4())):
        async with admin.watched(task_id) as watched:
            if task_id == task.task_id:
                await watched.next()
                await admin.delete(task_id)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await watched.rest()
            assert refusal(caught.value).reason == "TASK_NOT_FOUND"


async def test_a_server_that_goes_away_says_so(
    server_database: Database, api: Api, queue: str
) -> None:
    task = await api.enqueue(queue=queue)
    with ServerProcess(server_database.dsn, name="leaving server") as process:
        async with (
            connected(process.address) as leaving,
            Admin(leaving).watched(task.task_id) as watched,
        ):
            await watched.next()
            process.terminate()
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await watched.rest()
            assert refusal(caught.value).reason == "DRAINING"
