"""Who is connected, to which server, with what in hand; and how to take a worker out."""

from __future__ import annotations

from collections.abc import AsyncIterator

import grpc
import pytest

from tests.integration.admin.toolkit import Admin
from tests.postgres import Database
from tests.servers import ServerProcess
from tests.toolkit import Api, connected, eventually, refused, request, seconds
from workerqueue.v1 import worker_admin_pb2


@pytest.fixture
async def elsewhere(server_database: Database) -> AsyncIterator[Api]:
    """A second server on the same database."""
    with ServerProcess(server_database.dsn, name="second server") as process:
        async with connected(process.address) as api:
            yield api


async def find(admin: Admin, worker_id: str) -> worker_admin_pb2.Worker | None:
    token = ""
    while True:
        page = await admin.stub.ListWorkers(
            worker_admin_pb2.ListWorkersRequest(page_size=2, page_token=token)
        )
        for worker in page.workers:
            if worker.worker_id == worker_id:
                return worker
        token = page.next_page_token
        if not token:
            return None


async def test_workers_of_all_servers_are_listed_with_what_they_hold(
    api: Api, elsewhere: Api, admin: Admin, queue: str
) -> None:
    await api.ids([request(queue=queue) for _ in range(3)])
    other = f"{queue}-other"
    await api.enqueue(queue=other)
    name = f"worker-{queue}"
    async with (
        api.worker(queue, window=2, worker_id=name) as here,
        elsewhere.worker([queue, other], window=2, worker_id=name, kinds=["runFinished"]) as there,
    ):
        await here.until(lambda: len(here.received) == 2, "two tasks")
        await there.until(lambda: len(there.received) == 2, "two tasks")

        async def both() -> worker_admin_pb2.Worker | None:
            found = await find(admin, name)
            return found if found is not None and len(found.sessions) == 2 else None

        worker = await eventually(both, "both sessions")
        assert worker.held_tasks == 4
        assert dict(worker.held_by_queue) == {queue: 3, other: 1}
        assert worker.HasField("oldest_lease_at")
        assert not worker.drained
        sessions = {session.session_id: session for session in worker.sessions}
        mine = sessions[(await here.welcome()).session_id]
        assert (list(mine.queues), list(mine.kinds), mine.max_in_flight) == ([queue], [], 2)
        theirs = sessions[(await there.welcome()).session_id]
        assert (sorted(theirs.queues), list(theirs.kinds)) == (
            sorted([queue, other]),
            ["runFinished"],
        )
        assert mine.server_id == (await here.welcome()).server_id != theirs.server_id

    async def unconnected() -> bool:
        found = await find(admin, name)
        return found is not None and not found.sessions and found.held_tasks == 4

    await eventually(unconnected, "no session is left, the leases stand")


@pytest.mark.slow
async def test_a_dead_servers_workers_vanish(
    server_database: Database, api: Api, admin: Admin, queue: str
) -> None:
    process = ServerProcess(server_database.dsn, name="doomed server").start()
    name = f"worker-{queue}"
    async with connected(process.address) as doomed, doomed.worker(queue, worker_id=name):
        await eventually(lambda: find(admin, name), "the worker is listed")
        process.kill()

    async def gone() -> bool:
        return await find(admin, name) is None

    await eventually(gone, "a server that is dead for 15 s has no workers", limit=90)


async def test_a_drained_worker_finishes_and_gets_no_more(
    api: Api, elsewhere: Api, admin: Admin, queue: str
) -> None:
    name = f"worker-{queue}"
    await api.enqueue(queue=queue)
    async with elsewhere.worker(queue, worker_id=name) as worker:
        leased = await worker.task()
        answer = await admin.stub.DrainWorker(
            worker_admin_pb2.DrainWorkerRequest(worker_id=name, grace=seconds(7))
        )
        assert answer.worker.drained
        assert answer.worker.HasField("drained_until")
        notice = await worker.until(
            lambda: [f.drain for f in worker.frames if f.HasField("drain")], "a Drain frame"
        )
        assert notice[0].grace.ToSeconds() == 7
        waiting = await api.enqueue(queue=queue)
        await worker.ack(leased.lease_token)
        assert await worker.end() is None
        assert worker.untaken == []

    async with api.worker(queue, worker_id=name) as back, api.worker(queue) as other:
        taken = await other.task()
        assert taken.task_id == waiting.task_id
        more = await api.ids([request(queue=queue) for _ in range(200)])
        await other.until(lambda: len(other.received) == 100, "the other's window is full")
        assert back.received == []
        resumed = await admin.stub.ResumeWorker(
            worker_admin_pb2.ResumeWorkerRequest(worker_id=name)
        )
        assert not resumed.worker.drained
        await back.until(lambda: len(back.received) == 100, "its window is full")
        held = {task.task_id for task in (*other.received, *back.received)}
        assert held <= {waiting.task_id, *more}


async def test_a_drain_ends_by_itself(api: Api, admin: Admin, queue: str) -> None:
    name = f"worker-{queue}"
    await admin.stub.DrainWorker(
        worker_admin_pb2.DrainWorkerRequest(worker_id=name, duration=seconds(1))
    )
    async with api.worker(queue, worker_id=name) as worker:
        task = await api.enqueue(queue=queue)
        assert (await worker.task()).task_id == task.task_id


@pytest.mark.parametrize(
    ("fields", "wrong"),
    [
        ({}, "worker_id"),
        ({"worker_id": "w" * 129}, "worker_id"),
        ({"worker_id": "w", "grace": seconds(3601)}, "grace"),
        ({"worker_id": "w", "duration": seconds(0.5)}, "duration"),
    ],
)
async def test_a_wrong_drain_is_refused(
    admin: Admin, fields: dict[str, object], wrong: str
) -> None:
    drain = worker_admin_pb2.DrainWorkerRequest(**fields)  # type: ignore[arg-type]
    problem = await refused(admin.stub.DrainWorker(drain))
    assert (problem.code, set(problem.fields)) == (grpc.StatusCode.INVALID_ARGUMENT, {wrong})
