"""Concurrent enqueue calls of one client, which travel together: nothing of that is to be seen."""

from __future__ import annotations

import asyncio
import uuid
from concurrent.futures import ThreadPoolExecutor

from tests.postgres import Database
from tests.servers import ServerProcess
from tests.sql import Inspector
from tests.toolkit import Api
from workerqueue import (
    AsyncClient,
    Client,
    EnqueueOutcome,
    InvalidPayloadError,
    InvalidRequestError,
    UnavailableError,
    UnknownKindError,
)
from workerqueue.tasks.v1 import tasks_pb2
from workerqueue.v1 import task_pb2


def run(name: str) -> tasks_pb2.RunFinished:
    return tasks_pb2.RunFinished(id=name)


async def test_good_and_bad_ones_together(server: ServerProcess, queue: str) -> None:
    known = str(uuid.uuid4())
    async with AsyncClient(server.address) as client:
        first = await client.enqueue(run("first"), queue=queue, task_id=known)
        outcomes = await asyncio.gather(
            client.enqueue(run("alone"), queue=queue),
            client.enqueue(run("good"), queue=queue, priority=7, tags=["a"], delay=60),
            client.enqueue(run("")),
            client.enqueue(run("bad"), queue="no spaces"),
            client.enqueue(task_pb2.Progress()),
            client.enqueue(run("again"), queue=queue, task_id=known),
            client.enqueue(run("good"), queue=queue, concurrency_key="k"),
            return_exceptions=True,
        )
        alone, good, invalid, bad, unknown, again, keyed = outcomes
        assert isinstance(invalid, InvalidPayloadError)
        assert [violation.field for violation in invalid.violations] == ["payload.id"]
        assert isinstance(bad, InvalidRequestError)
        assert [violation.field for violation in bad.violations] == ["options.queue"]
        assert isinstance(unknown, UnknownKindError)
        for handle in (alone, good, again, keyed):
            assert not isinstance(handle, BaseException)
        assert again.task == first.task  # type: ignore[union-attr]
        assert again.outcome is EnqueueOutcome.ALREADY_EXISTED  # type: ignore[union-attr]
        # The task is told as a call alone tells it.
        single = await client.enqueue(run("good"), queue=queue, priority=7, tags=["a"], delay=60)
        for task in (good.task, single.task):  # type: ignore[union-attr]
            for field in ("task_id", "created_at", "run_at"):
                task.ClearField(field)
        assert good.task == single.task  # type: ignore[union-attr]
        assert keyed.task.concurrency_key == "k"  # type: ignore[union-attr]


async def test_tasks_become_available_in_the_order_of_the_calls(
    server: ServerProcess, api: Api, queue: str
) -> None:
    names = [str(number) for number in range(200)]
    async with AsyncClient(server.address) as client:
        handles = await asyncio.gather(*(client.enqueue(run(name), queue=queue) for name in names))
    assert {handle.task.state for handle in handles} == {task_pb2.TASK_STATE_AVAILABLE}
    leases = await api.take(queue, len(names))
    assert [lease.task_id for lease in leases] == [handle.task_id for handle in handles]


def test_threads_share_calls_too(server: ServerProcess, queue: str) -> None:
    with Client(server.address) as client, ThreadPoolExecutor(16) as pool:
        handles = list(
            pool.map(lambda number: client.enqueue(run(str(number)), queue=queue), range(400))
        )
    assert len({handle.task_id for handle in handles}) == 400
    for number, handle in enumerate(handles):
        assert handle.outcome is EnqueueOutcome.CREATED
        assert tasks_pb2.RunFinished.FromString(handle.task.payload.value).id == str(number)


async def test_a_killed_server_loses_and_doubles_nothing(
    server_database: Database, sql: Inspector, queue: str
) -> None:
    """Callers repeat what failed, with the same id, as they are told to."""
    stored: dict[str, str] = {}
    enough = asyncio.Event()

    async def produce(client: AsyncClient, caller: int) -> None:
        for number in range(100):
            task_id = str(uuid.uuid4())
            while task_id not in stored:
                try:
                    handle = await client.enqueue(
                        run(f"{caller}-{number}"), queue=queue, task_id=task_id
                    )
                except UnavailableError:
                    await asyncio.sleep(0.1)
                else:
                    stored[handle.task_id] = f"{caller}-{number}"
            if len(stored) > 500:
                enough.set()

    with ServerProcess(server_database.dsn, name="killed") as killed:
        async with AsyncClient(killed.address) as client, asyncio.TaskGroup() as callers:
            for caller in range(32):
                callers.create_task(produce(client, caller))
            await enough.wait()
            killed.kill()
            await asyncio.to_thread(killed.start)
    assert len(stored) == 3_200
    rows = await sql.rows(
        "select id::text from workerqueue.tasks join workerqueue.lanes using (lane_id) "
        "where queue = %s",
        queue,
    )
    assert sorted(row["id"] for row in rows) == sorted(stored)
