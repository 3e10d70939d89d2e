"""A server that drains takes along no lease that is still on its way to a worker."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.harness.faulty import arm
from tests.servers import ServerProcess
from tests.sql import Inspector
from tests.toolkit import connected, eventually, request
from workerqueue.v1 import worker_queue_pb2

# More than an enqueue hands over in its own transaction.
MANY = 300

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(("statement", "count"), [("grant_runs", MANY), ("enqueue_and_grant", 10)])
async def test_leases_that_were_granted_while_the_server_stopped_are_given_back(
    faulty: ServerProcess, sql: Inspector, point: Path, statement: str, count: int
) -> None:
    async with connected(faulty.address) as api, api.worker("q", window=MANY) as worker:
        # From here on the stream waits with nothing else to take.
        await api.enqueue(queue="q")
        first = await worker.task()
        await worker.acked(first.lease_token)
        # The database has committed, and the server does not know it for a while.
        arm(point, {"point": f"after commit of {statement}", "action": "dawdle"})
        stored = api.stub.EnqueueBatch(
            worker_queue_pb2.EnqueueBatchRequest(tasks=[request(queue="q")] * count)
        )
        await eventually(lambda: not point.exists(), f"{statement} is committed")
        faulty.terminate()
        await worker.end()
        assert worker.received == [first]
        stored.cancel()
    assert faulty.wait() == 0
    tasks = await sql.rows(
        "select state::text, attempt, count(*)::integer as n from workerqueue.tasks group by 1, 2"
    )
    assert tasks == [{"state": "available", "attempt": 0, "n": count}]
