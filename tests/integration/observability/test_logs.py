"""Every change of a task's state has a line at debug, and no line tells what users sent."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.postgres import Database, PostgresCluster
from tests.servers import ServerProcess
from tests.toolkit import Api, connected, eventually, packed, refused, request, seconds
from workerqueue.tasks.v1 import tasks_pb2
from workerqueue.v1 import task_admin_pb2, worker_queue_admin_pb2_grpc
from workerqueue_server.app.configuration import mask_dsn

TRACE = "0af7651916cd43dd8448eb211c80319c"
CANARY = "canary"


@pytest.fixture(scope="module", params=["json", "console"])
def talkative(
    request: pytest.FixtureRequest, postgres: PostgresCluster
) -> Iterator[tuple[ServerProcess, Database]]:
    """A server that logs all it can, and its database, whose DSN has a password."""
    database = postgres.create_migrated_database()
    separator = "&" if "?" in database.dsn else " "
    dsn = f"{database.dsn}{separator}password=dsn-canary"
    assert "dsn-canary" not in mask_dsn(dsn)
    arguments = ["--log-level", "debug", "--log-format", request.param]
    with ServerProcess(dsn, arguments=arguments) as process:
        yield process, database
    postgres.drop_database(database)


async def everything(api: Api) -> tuple[dict[str, list[str]], list[bytes]]:
    """A task of each fate, with canaries wherever users put words: the events of each, tokens."""
    payload = tasks_pb2.RunFinished(id="payload-canary")
    common: dict[str, Any] = {
        "queue": "q",
        "tags": ["tag-canary"],
        "concurrency_key": "",
        "metadata": {
            "note": "metadata-canary",
            "traceparent": f"00-{TRACE}-b7ad6b7169203331-01",
            "tracestate": "vendor=state-canary",
        },
    }

    def made(**options: Any) -> Any:
        return request(payload, **{**common, **options})

    requests = [
        made(concurrency_key="key-canary"),
        made(max_attempts=1),
        made(),
        made(timeout=seconds(0.3), max_attempts=1),
        made(),
        made(delay=seconds(3600)),
    ]
    ids = [await api.ids([one]) for one in requests]
    done, failed, released, timed_out, cancelled, deleted = (one for (one,) in ids)
    async with api.worker("q", worker_id="w", window=5) as worker:
        tasks = {task.task_id: task for task in await worker.tasks(5)}
        result = tasks_pb2.RunFinished(id="result-canary")
        await api.heartbeat(
            tasks[done].lease_token,
            progress={"fraction": 0.5, "message": "progress-canary"},
            checkpoint=packed(tasks_pb2.RunFinished(id="checkpoint-canary")),
        )
        await api.ack(tasks[done].lease_token, result)
        await api.fail(
            tasks[failed].lease_token,
            error={"type": "type-canary", "message": "error-canary", "trace": "trace-canary"},
        )
        await api.release(tasks[released].lease_token)
        await worker.cancellation(tasks[timed_out].lease_token)
        admin = worker_queue_admin_pb2_grpc.WorkerQueueAdminStub(api.channel)
        await admin.CancelTask(
            task_admin_pb2.CancelTaskRequest(task_id=cancelled, reason="reason-canary")
        )
        await worker.cancellation(tasks[cancelled].lease_token)
        await admin.DeleteTask(task_admin_pb2.DeleteTaskRequest(task_id=deleted))
        bad = await refused(api.send(made(queue="bad canary queue")))
        assert bad.fields
    tokens = [task.lease_token for task in tasks.values()]
    return {
        done: ["enqueued", "leased", "succeeded"],
        failed: ["enqueued", "leased", "failed"],
        released: ["enqueued", "leased", "released", "leased"],
        timed_out: ["enqueued", "leased", "timed_out"],
        cancelled: ["enqueued", "leased", "cancelled"],
        deleted: ["enqueued", "deleted"],
    }, tokens


async def test_lines_tell_what_happened_and_nothing_that_users_sent(
    talkative: tuple[ServerProcess, Database],
) -> None:
    server, _ = talkative
    async with connected(server.address) as api:
        # Some clients send a token where none is wanted.
        await refused(
            api.stub.Enqueue(
                request(queue="q", metadata={"k": "metadata-canary"}, priority=100_000),
                metadata=(("authorization", "Bearer bearer-canary"),),
            )
        )
        events, tokens = await everything(api)
        told = await asyncio.to_thread(server.log)

        def is_told() -> bool:
            return all(_events(server.log(), task) == events[task] for task in events)

        try:
            await eventually(is_told, "a line for each change")
        except AssertionError:
            assert {task: _events(server.log(), task) for task in events} == events
    told = server.log()
    assert CANARY not in told
    for token in tokens:
        assert token.hex() not in told
        # Nor the part that makes it a secret, in the forms that Python would print.
        assert repr(token)[2:-1] not in told
    line = next(line for line in told.splitlines() if "task leased" in line)
    for word in ("w", "q", "runFinished", TRACE):
        assert word in line


def _events(log: str, task_id: str) -> list[str]:
    """What was told of a task, in order."""
    events = []
    for line in log.splitlines():
        if task_id not in line or "changed by hand" in line:
            continue
        if line.startswith("{"):
            told = json.loads(line)
            assert told["task_id"] == task_id
            message = told["message"]
        else:
            message = line.partition("task_lines: ")[2]
        events.append(message.removeprefix("task ").split()[0])
    return events
