"""A stream that breaks between a grant and the frame that would tell of it costs no attempt."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.chaos.harness.faulty import arm
from tests.chaos.harness.proxy import Proxy
from tests.servers import ServerProcess
from tests.sql import Inspector
from tests.toolkit import Api, WorkerStream, connected, eventually, request
from workerqueue.v1 import worker_admin_pb2, worker_queue_pb2
from workerqueue.v1.worker_queue_admin_pb2_grpc import WorkerQueueAdminStub

# More than an enqueue hands over in its own transaction.
MANY = 300
# So no lease ends by its clock while a test waits.
LEASE_SECONDS = 3_000.0

pytestmark = pytest.mark.slow


@pytest.fixture
async def api(faulty: ServerProcess) -> AsyncIterator[Api]:
    async with connected(faulty.address) as api:
        yield api


@pytest.fixture
async def proxy(faulty: ServerProcess) -> AsyncIterator[Proxy]:
    proxy = Proxy("worker - server", ("127.0.0.1", faulty.port))
    await proxy.start()
    yield proxy
    await proxy.stop()


@pytest.mark.parametrize(
    ("statement", "count", "how"),
    [
        ("grant_runs", MANY, "the stream is reset"),
        ("enqueue_and_grant", 10, "the connection is reset"),
    ],
)
async def test_what_was_granted_while_the_stream_broke_is_given_back_at_once(
    api: Api, proxy: Proxy, point: Path, sql: Inspector, statement: str, count: int, how: str
) -> None:
    async with connected(proxy.address) as far:
        stream = WorkerStream(far)
        await stream.open("q", MANY, worker_id="leaves", lease_duration=LEASE_SECONDS)
        # From here on the stream waits with nothing else to take.
        await api.enqueue(queue="q")
        await stream.acked((await stream.task()).lease_token)
        await eventually(lambda: is_connected(api), "the server tells of the worker")
        # The database has committed, and the server does not know it yet.
        arm(point, {"point": f"after commit of {statement}", "action": "hold"})
        batch = worker_queue_pb2.EnqueueBatchRequest(tasks=[request(queue="q")] * count)
        stored = api.stub.EnqueueBatch(batch)
        await eventually(lambda: not point.exists(), f"{statement} is committed")
        granted = await leased(sql)
        assert granted > 0
        if how == "the stream is reset":
            await stream.cut()
        else:
            proxy.cut()
            proxy.refuse()
        await eventually(lambda: is_gone(api), "the server has lost the worker")
        assert await leased(sql) == granted
        point.with_suffix(".go").touch()
        await eventually(lambda: none_leased(sql), "all are given back")
        await stored
        await stream.cut()
    tasks = (
        "select state::text, attempt, count(*)::integer as n from workerqueue.tasks group by 1, 2"
    )
    assert await sql.rows(tasks) == [{"state": "available", "attempt": 0, "n": count}]


async def leased(sql: Inspector) -> int:
    count: int = await sql.value("select count(*) from workerqueue.tasks where state = 'leased'")
    return count


async def none_leased(sql: Inspector) -> bool:
    return await leased(sql) == 0


async def is_connected(api: Api) -> bool:
    admin: Any = WorkerQueueAdminStub(api.channel)
    page = await admin.ListWorkers(worker_admin_pb2.ListWorkersRequest())
    return any(worker.worker_id == "leaves" and worker.sessions for worker in page.workers)


async def is_gone(api: Api) -> bool:
    return not await is_connected(api)
