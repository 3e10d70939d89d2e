"""What somebody changes by hand is told in one line: who, what, how many; and nothing secret."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.postgres import Database, PostgresCluster
from tests.servers import ServerProcess
from tests.tokens import Tokens, connected_as, token_id
from tests.toolkit import Api, eventually, refused, request
from workerqueue.v1 import queue_admin_pb2, task_admin_pb2, worker_admin_pb2
from workerqueue.v1.worker_queue_admin_pb2_grpc import WorkerQueueAdminStub

ARGUMENTS = ["--auth", "tokens", "--log-format", "json"]


@pytest.fixture
def database(postgres: PostgresCluster) -> Iterator[Database]:
    made = postgres.create_database()
    yield made
    postgres.drop_database(made)


def _lines(server: ServerProcess) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in server.log().splitlines() if line.startswith("{")]
    return [line for line in lines if line["message"] == "changed by hand"]


async def test_each_change_by_hand_has_a_line(database: Database) -> None:
    with ServerProcess(database.dsn, arguments=ARGUMENTS) as server:
        tokens = Tokens(database.dsn)
        operator = tokens.create("operator", name="ops")
        producer = tokens.create("producer", name="shop")
        async with (
            connected_as(server.address, operator) as ops,
            connected_as(server.address, producer) as shop,
        ):
            ids = await shop.ids([request(queue="q", job_key=f"key-{n}") for n in range(5)])
            await _change(WorkerQueueAdminStub(ops.channel), shop, ids)
        expected: list[tuple[str, dict[str, Any]]] = [
            ("PauseQueue", {"queue": "q"}),
            ("UpdateQueue", {"queue": "q", "max_in_flight": 7}),
            ("DrainWorker", {"worker_id": "w"}),
            ("CancelTask", {"task_id": ids[0]}),
            ("DeleteTasks", {"queues": ["q"], "kinds": ["runFinished"], "count": 1}),
            ("RemoveByJobKey", {}),
            ("PurgeQueue", {"queue": "q", "count": 3}),
        ]

        def told() -> bool:
            return len(_lines(server)) >= len(expected)

        await eventually(told, "a line for each")
        for line, (action, fields) in zip(_lines(server), expected, strict=True):
            by_producer = action == "RemoveByJobKey"
            name, text = ("shop", producer) if by_producer else ("ops", operator)
            about = {"level": "info", "action": action, "count": 1, **fields}
            assert line == line | about | {"by": f"token '{name}' ({token_id(text)})"}
        log = server.log()
        for secret in (operator.split("_")[2], producer.split("_")[2], "key-"):
            assert secret not in log


async def _change(admin: Any, shop: Api, ids: list[str]) -> None:
    await admin.PauseQueue(queue_admin_pb2.PauseQueueRequest(queue="q"))
    await admin.UpdateQueue(queue_admin_pb2.UpdateQueueRequest(queue="q", max_in_flight=7))
    await admin.DrainWorker(worker_admin_pb2.DrainWorkerRequest(worker_id="w"))
    await admin.CancelTask(task_admin_pb2.CancelTaskRequest(task_id=ids[0]))
    # What changes nothing has no line: a refusal, a look, a dry run.
    await refused(admin.PauseQueue(queue_admin_pb2.PauseQueueRequest(queue="nowhere")))
    await admin.GetQueue(queue_admin_pb2.GetQueueRequest(queue="q"))
    chosen = task_admin_pb2.TaskFilter(
        queues=["q"], kinds=["runFinished"], states=["TASK_STATE_CANCELLED"]
    )
    for dry_run in (True, False):
        bulk = task_admin_pb2.DeleteTasksRequest(filter=chosen, dry_run=dry_run)
        assert [step async for step in admin.DeleteTasks(bulk)]
    own = WorkerQueueAdminStub(shop.channel)
    await own.RemoveByJobKey(task_admin_pb2.RemoveByJobKeyRequest(job_key="key-1"))
    purge = queue_admin_pb2.PurgeQueueRequest(queue="q")
    assert [step async for step in admin.PurgeQueue(purge)]
