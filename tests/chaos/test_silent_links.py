"""A server whose links lose every packet: nobody hears that it is gone, and it hears of nobody."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
from psycopg import AsyncConnection

from tests.chaos.harness.processes import Actor
from tests.networks import Namespace, Way
from tests.postgres import PostgresCluster, available_majors
from tests.servers import ServerProcess
from tests.sql import Inspector
from tests.toolkit import AT_ONCE, Api, connected, eventually, refusal, request, within
from workerqueue.tasks.v1 import tasks_pb2
from workerqueue.v1 import task_admin_pb2, worker_admin_pb2
from workerqueue.v1.worker_queue_admin_pb2_grpc import WorkerQueueAdminStub

LEASE_SECONDS = 3.0
HELD = 5
# Longer than a lease: what was held when the link fell silent cannot be answered in time.
WORK_SECONDS = 6.0
# Far more than keepalive and time-outs need, far less than the kernel's own patience.
PATIENCE_SECONDS = 60.0

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]


@dataclass
class Parted:
    """Two servers on one database, one of them behind links that can fall silent."""

    cluster: PostgresCluster
    namespace: Namespace
    far: ServerProcess
    near: ServerProcess

    @asynccontextmanager
    async def sql(self) -> AsyncIterator[Inspector]:
        """A look into the database."""
        dsn = self.cluster.dsn("postgres")
        async with await AsyncConnection.connect(dsn, autocommit=True) as connection:
            yield Inspector(connection)


@pytest.fixture
def parted() -> Iterator[Parted]:
    if reason := Namespace.unavailable():
        pytest.skip(reason)
    with ExitStack() as stack:
        namespace = stack.enter_context(Namespace("database", "clients"))
        database, clients = namespace.links["database"], namespace.links["clients"]
        cluster = PostgresCluster(next(iter(available_majors())), host=database.host)
        stack.callback(cluster.destroy)
        cluster.start()
        near = stack.enter_context(ServerProcess(cluster.dsn("postgres"), name="near"))
        far = ServerProcess(
            cluster.tcp_dsn("postgres", database.host),
            name="far",
            host=clients.far,
            prefix=namespace.prefix,
            arguments=["--allow-insecure"],
        )
        stack.enter_context(far)
        # A server that is to stop must not first wait for answers that cannot come.
        for link in namespace.links.values():
            stack.callback(link.heal)
        yield Parted(cluster, namespace, far, near)


async def serves_again(server: ServerProcess, pid: int) -> None:
    """The same process takes a task and gives it to a worker."""
    await eventually(server.is_serving, f"{server.name} serves", PATIENCE_SECONDS)
    async with connected(server.address) as api, api.worker("again") as worker:
        task = await api.enqueue(queue="again")
        leased = await worker.task()
        await worker.acked(leased.lease_token)
        assert leased.task_id == task.task_id
    assert server.pid == pid
    assert server.returncode is None


async def test_workers_leave_a_server_that_fell_silent(parted: Parted, tmp_path: Path) -> None:
    both = f"ipv4:{parted.far.address},{parted.near.address}"
    mover = product_worker("mover", both, tmp_path)
    heir = product_worker("heir", f"ipv4:{parted.near.address}", tmp_path)
    async with parted.sql() as sql, connected(parted.near.address) as api:
        near_id = await server_id(api)
        work = tasks_pb2.RunFinished(id=str(WORK_SECONDS))
        tasks = [
            (await api.enqueue(work, queue="q", retry=AT_ONCE, max_attempts=20)).task_id
            for _ in range(HELD)
        ]
        mover.launch()
        try:

            async def are_begun() -> bool:
                return await sql.states(tasks) == {"leased": HELD}

            await eventually(are_begun, "the worker holds all")
            assert await servers_of("mover", api) != {near_id}
            heir.launch()
            pid = parted.far.pid
            parted.namespace.links["clients"].lose()

            async def has_moved() -> bool:
                return near_id in await servers_of("mover", api)

            await eventually(has_moved, "the worker is on the other server", PATIENCE_SECONDS)

            async def are_done() -> bool:
                return await sql.states(tasks) == {"succeeded": HELD}

            await eventually(are_done, "every task is done", PATIENCE_SECONDS)
            parted.namespace.links["clients"].heal()
            await serves_again(parted.far, pid)
        finally:
            for actor in (mover, heir):
                actor.kill()
        assert await sql.rows(OVERLAPS) == []


async def test_a_server_without_its_database_keeps_nothing_and_nobody_waiting(
    parted: Parted,
) -> None:
    """A grant that the server never hears of, because the answer is lost on its way, locks rows."""
    link, count = parted.namespace.links["database"], 20
    # More than the kernel takes from PostgreSQL without an acknowledgement.
    body = tasks_pb2.ScheduleEmail(to="ada@example.com", subject="Hello", text="x" * 500_000)
    async with (
        parted.sql() as sql,
        connected(parted.near.address) as near,
        connected(parted.far.address) as far,
        far.worker("q", window=1) as cut_off,
    ):
        first = await far.enqueue(queue="q")
        await cut_off.task()
        tasks = [(await far.enqueue(body, queue="q")).task_id for _ in range(count)]
        pid = parted.far.pid
        link.lose([Way.IN])
        # The server asks for as many as there are now.
        await cut_off.send(max_in_flight=1 + count)
        await eventually(lambda: is_stuck(sql), "PostgreSQL waits for the server to read")
        link.lose()
        calls = asyncio.gather(
            ended(far.stub.Enqueue(request(queue="q"), timeout=PATIENCE_SECONDS)),
            ended(get_task(far, first.task_id)),
        )
        async with near.worker("q", window=1 + count) as heir:
            await heir.tasks(count, limit=PATIENCE_SECONDS)
            assert {task.task_id for task in heir.received} >= set(tasks)
            # The transaction that would have charged them was rolled back.
            assert {task.attempt for task in heir.received if task.task_id in tasks} == {1}
            await heir.acked(*[task.lease_token for task in heir.received])
        assert list(await calls) == ["DATABASE_UNAVAILABLE"] * 2
        await eventually(lambda: not parted.far.is_serving(), "its health tells")
        link.heal()
        await serves_again(parted.far, pid)
        await eventually(lambda: nobody_waits(sql), "no transaction is left")


# Attempts whose lease began before the one before it had ended.
OVERLAPS = """
    select a.task_id from workerqueue.attempts a
      join workerqueue.attempts b on b.task_id = a.task_id and b.attempt > a.attempt
     where b.started_at < a.finished_at
"""


def product_worker(name: str, target: str, folder: Path) -> Actor:
    options = {
        "folder": str(folder),
        "name": name,
        "target": target,
        "queues": ["q"],
        "concurrency": HELD,
        "lease_seconds": LEASE_SECONDS,
        "seed": 1,
    }
    return Actor("product_worker", options, folder)


async def server_id(api: Api) -> str:
    async with api.worker("nothing") as stream:
        return (await stream.welcome()).server_id


async def servers_of(worker: str, api: Api) -> set[str]:
    """The servers that have a stream of the worker, as far as this one knows."""
    admin: Any = WorkerQueueAdminStub(api.channel)
    page = await admin.ListWorkers(worker_admin_pb2.ListWorkersRequest())
    return {s.server_id for w in page.workers if w.worker_id == worker for s in w.sessions}


async def get_task(api: Api, task_id: str) -> Any:
    admin: Any = WorkerQueueAdminStub(api.channel)
    return await admin.GetTask(
        task_admin_pb2.GetTaskRequest(task_id=task_id), timeout=PATIENCE_SECONDS
    )


async def ended(call: Any) -> str:
    """Why the call was refused, by a server that does not wait for ever."""
    try:
        await within(call)
    except grpc.aio.AioRpcError as error:
        return refusal(error).reason or error.code().name
    return "answered"


async def is_stuck(sql: Inspector) -> bool:
    return bool(await sql.rows(WAITING))


async def nobody_waits(sql: Inspector) -> bool:
    return not await sql.rows(WAITING)


# Transactions of servers in which PostgreSQL waits for a client that does not read.
WAITING = """
    select pid from pg_stat_activity
     where application_name like 'workerqueue%%'
       and wait_event = 'ClientWrite' and xact_start is not null
"""
