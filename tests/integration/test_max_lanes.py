"""Producers make lanes by naming queues and priorities; there is a bound on it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import grpc
import pytest

from tests.postgres import Database, PostgresCluster
from tests.servers import ServerProcess
from tests.sql import Inspector
from tests.toolkit import Api, Refusal, connected, refused, request
from workerqueue.v1 import task_admin_pb2, worker_queue_admin_pb2_grpc, worker_queue_pb2

# The catalog's kinds have a lane each from the start.
_CATALOG = 24
_MORE = 4


@pytest.fixture(scope="module")
def server_database(postgres: PostgresCluster) -> Iterator[Database]:
    database = postgres.create_database()
    yield database
    postgres.drop_database(database)


@pytest.fixture(scope="module")
def server(server_database: Database) -> Iterator[ServerProcess]:
    arguments = ["--max-lanes", str(_CATALOG + _MORE)]
    with ServerProcess(server_database.dsn, arguments=arguments) as process:
        yield process


@pytest.fixture
async def api(server: ServerProcess) -> AsyncIterator[Api]:
    async with connected(server.address) as api:
        yield api


async def test_lanes_beyond_the_bound_are_refused_and_known_ones_go_on(
    api: Api, sql: Inspector
) -> None:
    # A batch that needs more than there is room for: the items that find no room are refused.
    items = [request(queue=f"q{number}") for number in range(_MORE + 2)]
    items += [request(queue="q0"), request()]
    answer: worker_queue_pb2.EnqueueBatchResponse = await api.stub.EnqueueBatch(
        worker_queue_pb2.EnqueueBatchRequest(tasks=items)
    )
    statuses = [Refusal(item.error) if item.HasField("error") else None for item in answer.results]
    assert statuses == [*[None] * _MORE, *statuses[_MORE : _MORE + 2], None, None]
    for place in (_MORE, _MORE + 1):
        status = statuses[place]
        assert status is not None
        assert status.reason == "TOO_MANY_LANES"
        assert status.code is grpc.StatusCode.FAILED_PRECONDITION
        assert status.metadata == {"queue": f"q{place}"}
    (lanes,) = await sql.rows("select count(*) as n from workerqueue.lanes")
    assert lanes["n"] == _CATALOG + _MORE
    # One by one it is the same, whatever is new: the queue or the priority.
    for options in ({"queue": "another"}, {"priority": 7}):
        problem = await refused(api.send(request(**options)))
        assert problem.reason == "TOO_MANY_LANES"
        assert problem.retry_seconds is None
        assert "max_lanes" in problem.message
    (task_id,) = await api.ids([request(queue="q0")])
    admin = worker_queue_admin_pb2_grpc.WorkerQueueAdminStub(api.channel)
    problem = await refused(
        admin.RescheduleTask(task_admin_pb2.RescheduleTaskRequest(task_id=task_id, priority=9))
    )
    assert problem.reason == "TOO_MANY_LANES"
    # Nothing was made by those that were refused.
    (lanes,) = await sql.rows("select count(*) as n from workerqueue.lanes")
    assert lanes["n"] == _CATALOG + _MORE
