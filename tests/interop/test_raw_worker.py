"""A worker of under 80 lines that has nothing but the generated stubs does the whole job."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from google.protobuf.wrappers_pb2 import StringValue

from tests.servers import ServerProcess
from tests.toolkit import Api, eventually, seconds, within
from workerqueue.v1.policy_pb2 import RetryPolicy
from workerqueue.v1.task_admin_pb2 import GetTaskRequest, WatchTaskRequest
from workerqueue.v1.task_pb2 import (
    TASK_STATE_DEAD,
    TASK_STATE_LEASED,
    TASK_STATE_SUCCEEDED,
    Task,
)
from workerqueue.v1.worker_queue_admin_pb2_grpc import WorkerQueueAdminStub

if TYPE_CHECKING:
    from workerqueue.v1.worker_queue_admin_pb2_grpc import WorkerQueueAdminAsyncStub

WORKER = Path(__file__).with_name("raw_worker.py")


@asynccontextmanager
async def _worker(server: ServerProcess, queue: str) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, str(WORKER), server.address, queue),
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


def _admin(api: Api) -> WorkerQueueAdminAsyncStub:
    return WorkerQueueAdminStub(api.channel)


async def _ended(api: Api, task_id: str) -> Task:
    """The task when it has ended."""
    task = Task()
    async for answer in _admin(api).WatchTask(WatchTaskRequest(task_id=task_id)):
        task = answer.task
    return task


def _result(task: Task) -> str:
    result = StringValue()
    assert task.result.Unpack(result)
    return result.value


def test_it_has_under_80_lines_and_no_client_package() -> None:
    source = WORKER.read_text()

    assert len(source.splitlines()) < 80
    imported = [line.split()[1] for line in source.splitlines() if line.startswith("from worker")]
    assert imported
    assert all(module.startswith("workerqueue.v1") for module in imported)


async def test_it_completes_fails_and_heartbeats(
    server: ServerProcess, api: Api, queue: str
) -> None:
    quick = [await api.enqueue(queue=queue) for _ in range(50)]
    # Longer than its lease: only heartbeats keep it.
    long = await api.enqueue(queue=queue, lease_duration=seconds(2), metadata={"seconds": "4.5"})
    retry = RetryPolicy(initial_backoff=seconds(0.05))
    broken = await api.enqueue(
        queue=queue, max_attempts=2, retry=retry, metadata={"fail": "no route to host"}
    )
    async with _worker(server, queue):
        for task in quick:
            ended = await within(_ended(api, task.task_id))
            assert ended.state == TASK_STATE_SUCCEEDED
            assert _result(ended).startswith("attempt 1 by ")
        dead = await within(_ended(api, broken.task_id))
        kept = await within(_ended(api, long.task_id))

    assert (dead.state, dead.attempt) == (TASK_STATE_DEAD, 2)
    assert dead.last_error.type == "RuntimeError"
    assert dead.last_error.message == "no route to host"
    assert (kept.state, kept.attempt) == (TASK_STATE_SUCCEEDED, 1)


async def test_sigterm_lets_it_finish_what_it_holds(
    server: ServerProcess, api: Api, queue: str
) -> None:
    task = await api.enqueue(queue=queue, metadata={"seconds": "0.5"})

    async def is_leased() -> bool:
        answer = await _admin(api).GetTask(GetTaskRequest(task_id=task.task_id))
        return answer.task.state == TASK_STATE_LEASED

    async with _worker(server, queue) as worker:
        await eventually(is_leased, "the task is leased")
        worker.send_signal(signal.SIGTERM)
        returncode = await within(worker.wait())

    assert returncode == 0
    ended = await within(_ended(api, task.task_id))
    assert (ended.state, ended.attempt) == (TASK_STATE_SUCCEEDED, 1)
