"""A server that drains takes along no lease that is still on its way to a worker."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from psycopg import AsyncConnection

from tests.chaos.harness.faulty import VARIABLE, arm
from tests.postgres import Database
from tests.servers import ServerProcess
from tests.sql import Inspector
from tests.toolkit import connected, eventually, request
from workerqueue.v1 import worker_queue_pb2

REPOSITORY = Path(__file__).parents[2]
# More than an enqueue hands over in its own transaction.
MANY = 300

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(("statement", "count"), [("grant_runs", MANY), ("enqueue_and_grant", 10)])
async def test_leases_that_were_granted_while_the_server_stopped_are_given_back(
    database: Database, tmp_path: Path, statement: str, count: int
) -> None:
    point = tmp_path / "point"
    path = os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")])
    with ServerProcess(
        database.dsn,
        program=("-m", "tests.chaos.harness.faulty"),
        environment={VARIABLE: str(point), "PYTHONPATH": path},
    ) as server:
        async with connected(server.address) as api, api.worker("q", window=MANY) as worker:
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
            server.terminate()
            await worker.end()
            assert worker.received == [first]
            stored.cancel()
        assert server.wait() == 0
    async with await AsyncConnection.connect(database.dsn, autocommit=True) as connection:
        tasks = await Inspector(connection).rows(
            "select state::text, attempt, count(*)::integer as n"
            "  from workerqueue.tasks group by 1, 2"
        )
    assert tasks == [{"state": "available", "attempt": 0, "n": count}]
